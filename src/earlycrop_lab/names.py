"""The names of the data sets of each task, apart from what they stand for, so that a wrong one needs no PyTorch."""

from dataclasses import dataclass

from earlycrop.errors import nearest


class DataError(ValueError):
    """A data set is missing, damaged or not the expected one; its files are not changed."""


@dataclass(frozen=True)
class Names:
    """What data may be called.

    Args:
        what: What one of them is.
        listed: The names that there are.
        own: How names of the user's own data begin; empty if there are none.
        follows: What follows that beginning.
        means: What it then means.
    """

    what: str
    listed: tuple[str, ...]
    own: str = ""
    follows: str = ""
    means: str = ""

    def __str__(self) -> str:
        """All forms, as the help of the command lists them."""
        return ", ".join(self.listed) + (f" and {self.own}{self.follows} for {self.means}" if self.own else "")

    def check(self, name: str) -> None:
        """Refuse a name that none has.

        Raises:
            DataError: The name is unknown; the message suggests the nearest.
        """
        mine = bool(self.own) and name.startswith(self.own) and name != self.own
        if name not in self.listed and not mine:
            forms = [*self.listed, self.own + self.follows] if self.own else self.listed
            raise DataError(
                f"No {self.what} is called {name!r}. Did you mean {nearest(name, forms)!r}? There are {self}."
            )


IMAGES = Names(
    "data set", ("digits", "cifar10", "cifar100", "tiny-imagenet"), "folder:", "PATH", "a folder of class folders"
)
DEPTHS = Names("data set of depths", ("scenes", "nyu-depth-v2"))
TEXTS = Names("text", ("sherlock", "ptb"), "text:", "PATH", "any text file in UTF-8")
ENVIRONMENTS = Names(
    "environment", ("cartpole-v0", "cartpole-v1"), "gym:", "ID", "another one that gymnasium knows by that id"
)
