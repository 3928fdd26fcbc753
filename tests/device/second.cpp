// A second device for tests: its tensors live in the CPU's memory, its operators are the CPU's, and, as on a GPU,
// none takes tensors of two devices.
#include <atomic>
#include <cstdlib>

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_as_complex_native.h>
#include <ATen/ops/view_as_real_native.h>
#include <ATen/ops/view_native.h>
#include <ATen/ops/resize_native.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

namespace {

constexpr auto second = c10::DeviceType::HPU;

std::atomic<int64_t> room{INT64_MAX};  // bytes that may still be allocated

void release(void* block) {
  room += *static_cast<int64_t*>(block);
  free(block);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    constexpr size_t head = 64;  // the size, in front of the data and as aligned as they are
    TORCH_CHECK_WITH(OutOfMemoryError, room >= int64_t(size), "the second device has no memory for ", size, " bytes");
    room -= int64_t(size);
    char* block = static_cast<char*>(aligned_alloc(head, head + (size + head - 1) / head * head));
    *reinterpret_cast<int64_t*>(block) = int64_t(size);
    return {block + head, block, &release, c10::Device(second, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t size) const override { default_copy_data(to, from, size); }
} memory;
REGISTER_ALLOCATOR(second, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  const c10::Device here{second, 0};
  c10::DeviceType type() const override { return second; }
  c10::Device exchangeDevice(c10::Device) const override { return here; }
  c10::Device getDevice() const override { return here; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, here); }
  c10::Stream getNewStream(c10::Device, int) const override { return c10::Stream(c10::Stream::DEFAULT, here); }
  c10::Stream exchangeStream(c10::Stream) const override { return c10::Stream(c10::Stream::DEFAULT, here); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(HPU, Guard);

struct HPUHooks final : at::HPUHooksInterface {
  explicit HPUHooks(at::HPUHooksArgs) {}
  void init() const override {}
  bool hasHPU() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

// the same memory as a tensor of the CPU
at::Tensor host(const at::Tensor& t) {
  return at::from_blob(t.mutable_data_ptr(), t.sizes(), t.strides(), t.options().device(at::kCPU));
}

at::Tensor empty(c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
                 std::optional<at::Device>, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::HPU);
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
                         std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::HPU);
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, keys,
                                           c10::dtype_or_default(dtype));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool) {
  at::Tensor from = self.device().type() == second ? host(self) : self;
  at::Tensor to = dst.device().type() == second ? host(dst) : dst;
  to.copy_(from);
  return dst;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar scalar(const at::Tensor& self) { return host(self).item(); }

at::Tensor convolution(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& b, c10::SymIntArrayRef stride,
                       c10::SymIntArrayRef pad, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef out,
                       c10::SymInt groups) {
  TORCH_CHECK(x.device() == w.device(), "Expected all tensors to be on the same device, but found ", x.device(), " and ", w.device());
  std::optional<at::Tensor> bias;
  if (b && b->defined()) bias = b->cpu();
  return at::convolution_symint(x.cpu(), w.cpu(), bias, stride, pad, dilation, transposed, out, groups).to(x.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& g, const at::Tensor& x, const at::Tensor& w, c10::SymIntArrayRef stride, c10::SymIntArrayRef pad,
    c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef out, c10::SymInt groups, std::array<bool, 3> mask) {
  std::vector<c10::SymInt> sizes = {g.sym_size(1)};
  auto [a, b, c] = at::convolution_backward_symint(g.cpu(), x.cpu(), w.cpu(), c10::SymIntArrayRef(sizes), stride, pad, dilation,
                                            transposed, out, groups, mask);
  auto back = [&](const at::Tensor& t) { return t.defined() ? t.to(x.device()) : t; };
  return {back(a), back(b), back(c)};
}

// its schema does not say that it writes the running statistics
std::tuple<at::Tensor, at::Tensor, at::Tensor> batch_norm(
    const at::Tensor& x, const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    const std::optional<at::Tensor>& mean, const std::optional<at::Tensor>& var, bool training, double momentum, double eps) {
  auto here = [&](const std::optional<at::Tensor>& t) -> std::optional<at::Tensor> {
    if (!t || !t->defined()) return std::nullopt;
    TORCH_CHECK(t->device() == x.device(), "Expected all tensors to be on the same device, but found ", t->device());
    return host(*t);
  };
  auto [a, b, c] = at::native_batch_norm(host(x), here(weight), here(bias), here(mean), here(var), training, momentum, eps);
  return {a.to(x.device()), b.to(x.device()), c.to(x.device())};
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto count = op.schema().arguments().size();
  std::optional<c10::Device> seen;
  auto look = [&](const at::Tensor& t) {
    if (!t.defined() || (t.dim() == 0 && t.device().is_cpu())) return;
    TORCH_CHECK(!seen || *seen == t.device(), "Expected all tensors to be on the same device, but ", op.schema().name(),
                " found ", *seen, " and ", t.device());
    seen = t.device();
  };
  for (const auto& value : torch::jit::last(*stack, count)) {
    if (value.isTensor()) look(value.toTensor());
    else if (value.isTensorList()) for (const at::Tensor& t : value.toTensorVector()) look(t);
  }  // optional tensors in a list are indices, which may be on the CPU
  TORCH_CHECK(!seen || seen->type() == second, op.schema().name(), " of a CPU tensor with another device's indices");
  at::native::cpu_fallback(op, stack);
}

// recurrent layers would take kernels that only CUDA has: they run on the CPU, with differentiable copies there and back
using Three = std::tuple<at::Tensor, at::Tensor, at::Tensor>;
using Two = std::tuple<at::Tensor, at::Tensor>;

std::vector<at::Tensor> there(at::TensorList tensors, c10::Device device) {
  std::vector<at::Tensor> made;
  for (const auto& t : tensors) {
    TORCH_CHECK(t.device() == device, "Expected all tensors to be on the same device, but found ", t.device(), " and ", device);
    made.push_back(t.cpu());
  }
  return made;
}

Three lstm(const at::Tensor& x, at::TensorList hx, at::TensorList w, bool biases, int64_t layers, double dropout, bool train,
           bool both, bool first) {
  auto [a, b, c] = at::lstm(x.cpu(), there(hx, x.device()), there(w, x.device()), biases, layers, dropout, train, both, first);
  return {a.to(x.device()), b.to(x.device()), c.to(x.device())};
}

template <Two (*of)(const at::Tensor&, const at::Tensor&, at::TensorList, bool, int64_t, double, bool, bool, bool)>
Two recurrent(const at::Tensor& x, const at::Tensor& hx, at::TensorList w, bool biases, int64_t layers, double dropout, bool train,
              bool both, bool first) {
  auto [a, b] = of(x.cpu(), there({hx}, x.device())[0], there(w, x.device()), biases, layers, dropout, train, both, first);
  return {a.to(x.device()), b.to(x.device())};
}

}  // namespace

namespace at {
REGISTER_HPU_HOOKS(HPUHooks);
}

TORCH_LIBRARY(second, m) {
  m.def("limit(int bytes) -> int", [](int64_t bytes) { return room.exchange(bytes); });
}

TORCH_LIBRARY_IMPL(_, HPU, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }

TORCH_LIBRARY_IMPL(aten, AutogradHPU, m) {
  m.impl("lstm.input", &lstm);
  m.impl("gru.input", &recurrent<&at::gru>);
  m.impl("rnn_tanh.input", &recurrent<&at::rnn_tanh>);
  m.impl("rnn_relu.input", &recurrent<&at::rnn_relu>);
}

TORCH_LIBRARY_IMPL(aten, HPU, m) {
  m.impl("lstm.input", &lstm);
  m.impl("gru.input", &recurrent<&at::gru>);
  m.impl("rnn_tanh.input", &recurrent<&at::rnn_tanh>);
  m.impl("rnn_relu.input", &recurrent<&at::rnn_relu>);
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &scalar);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("native_batch_norm", &batch_norm);
  m.impl("view", &at::native::view);
  m.impl("unfold", &at::native::unfold);
  m.impl("view_as_real", &at::native::view_as_real);
  m.impl("view_as_complex", &at::native::view_as_complex);
  m.impl("as_strided", &at::native::as_strided_tensorimpl);
  m.impl("_reshape_alias", &at::native::_reshape_alias);
  m.impl("resize_", &at::native::resize_);
  m.impl("set_.source_Storage", &at::native::set_);
  m.impl("set_.source_Storage_storage_offset", &at::native::set_storage_cpu_);
  m.impl("set_.source_Tensor", &at::native::set_tensor_);
}
