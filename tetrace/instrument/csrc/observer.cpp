// Tells tetrace which node of autograd's graph runs (a RecordFunction callback for backward nodes alone, without their
// inputs), on which stream of CUDA a thread launches and, where Python's headers are, what and where a tensor is. Built
// against the torch at hand (tetrace/instrument/observer.py); tetrace._C knows no torch.
#if defined(TETRACE_READS_TENSORS)
#include <torch/csrc/autograd/python_variable.h>
#endif

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>
#include <c10/core/Stream.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace {

// The functions in the capsule of tetrace._C.autograd_capsule(); the layout of csrc/ranges/autograd.h.
struct Functions {
  void (*set_sequence)(std::uint64_t (*peek)(), std::uint64_t (*thread_id)());
  std::int32_t (*enter_backward)(std::uint64_t forward_thread, std::int64_t sequence);
  void (*leave_backward)();
};

Functions functions{};
at::CallbackHandle handle = at::INVALID_CALLBACK_HANDLE;

// Whether each running node of this thread opened a range. Nodes nest: a backward inside a node's backward.
thread_local std::vector<std::uint8_t> entered;

std::uint64_t peek() { return at::sequence_number::peek(); }
std::uint64_t thread_id() { return at::RecordFunction::currentThreadId(); }

// Nodes that only make views launch nothing, and what sums gradients into parameters (it has no sequence number) is
// known to be of the module before it: half of all nodes need no range.
bool needs_range(const at::RecordFunction& node) {
  static constexpr const char* views[] = {"View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Unsqueeze",
                                          "Squeeze", "Alias", "Detach"};
  if (node.seqNr() < 0) return false;
  const char* name = node.name();
  const char* end = std::strstr(name, "Backward0");
  if (end == nullptr || end[9] != 0) return true;
  const auto length = static_cast<std::size_t>(end - name);
  for (const char* view : views) {
    if (std::strlen(view) == length && std::strncmp(name, view, length) == 0) return false;
  }
  return true;
}

std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& node) {
  entered.push_back(needs_range(node) && functions.enter_backward(node.forwardThreadId(), node.seqNr()) != 0);
  return nullptr;
}

void end(const at::RecordFunction&, at::ObserverContext*) {
  if (entered.empty()) return;
  const bool opened = entered.back();
  entered.pop_back();
  if (opened) functions.leave_backward();
}

// c10::cuda::getCurrentCUDAStream(DeviceIndex) and CUDAStream::stream(), whose headers need CUDA's. The class holds a
// c10::Stream and nothing else.
struct CudaStream {
  c10::Stream stream;
};
CudaStream (*current_stream)(c10::DeviceIndex) = nullptr;
void* (*handle_of)(const CudaStream*) = nullptr;

bool find_streams() {
  // The one that torch has loaded, or none.
  void* library = dlopen("libc10_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return false;
  current_stream = reinterpret_cast<decltype(current_stream)>(dlsym(library, "_ZN3c104cuda20getCurrentCUDAStreamEa"));
  handle_of = reinterpret_cast<decltype(handle_of)>(dlsym(library, "_ZNK3c104cuda10CUDAStream6streamEv"));
  return current_stream != nullptr && handle_of != nullptr;
}

#if defined(TETRACE_READS_TENSORS)
// The layout of csrc/watch/tensors.h.
struct Facts {
  const void* data;
  std::int64_t elements;
  std::int64_t version;
  std::int32_t dtype;
  std::int32_t device;
  std::int32_t is_dense;
};
static_assert(sizeof(Facts) == 40, "csrc/watch/tensors.h has the same");

// As fp8::Dtype (csrc/fp8/inspector.h) numbers them; -1: none of them.
std::int32_t dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kBFloat16: return 0;
    case at::kHalf: return 1;
    case at::kFloat: return 2;
    default: return -1;
  }
}

// False of what stands for other tensors (of functorch, sparse, nested, conjugated, on other devices): its methods know more.
bool read(const at::Tensor& tensor, Facts* facts) {
  if (!tensor.defined() || !tensor.has_storage()) return false;
  const c10::DispatchKeySet kind = tensor.key_set() - c10::autograd_dispatch_keyset_with_ADInplaceOrView - c10::autocast_dispatch_keyset;
  const bool on_gpu = kind == c10::DispatchKeySet(c10::DispatchKey::CUDA);
  if (!on_gpu && kind != c10::DispatchKeySet(c10::DispatchKey::CPU)) return false;
  facts->data = tensor.const_data_ptr();
  facts->elements = tensor.numel();
  if (facts->data == nullptr && facts->elements != 0) return false;
  facts->version = tensor.is_inference() ? -1 : static_cast<std::int64_t>(tensor._version());
  facts->dtype = dtype_of(tensor);
  facts->device = on_gpu ? static_cast<std::int32_t>(tensor.get_device()) : -1;
  facts->is_dense = on_gpu && tensor.is_contiguous() ? 1 : 0;
  return true;
}
#endif

}  // namespace

extern "C" {

#if defined(TETRACE_READS_TENSORS)
// Facts of a torch.Tensor or Parameter, no subclass of them, or of its gradient; 0 where its methods must be asked. The
// interpreter's lock is held.
__attribute__((visibility("default"))) int tetrace_observer_tensor(void* object, int of_gradient, Facts* facts) {
  try {
    const at::Tensor& tensor = THPVariable_Unpack(static_cast<PyObject*>(object));
    return read(of_gradient != 0 ? tensor.grad() : tensor, facts) ? 1 : 0;
  } catch (...) {
    return 0;
  }
}
#endif

// Begins to observe; nothing when it does already.
__attribute__((visibility("default"))) void tetrace_observer_start(const void* given) {
  if (handle != at::INVALID_CALLBACK_HANDLE) return;
  functions = *static_cast<const Functions*>(given);
  functions.set_sequence(&peek, &thread_id);
  handle = at::addGlobalCallback(
      at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::BACKWARD_FUNCTION}).needsIds(false));
}

__attribute__((visibility("default"))) void tetrace_observer_stop() {
  if (handle == at::INVALID_CALLBACK_HANDLE) return;
  at::removeCallback(handle);
  handle = at::INVALID_CALLBACK_HANDLE;
  functions.set_sequence(nullptr, nullptr);
}

// Whether `tetrace_observer_stream` works with this torch.
__attribute__((visibility("default"))) int tetrace_observer_finds_streams() { return find_streams() ? 1 : 0; }

// The handle of the calling thread's current stream of `*device`, or of its current device, told too, where that is -1;
// 0 where torch cannot tell. CUDA must be initialized.
__attribute__((visibility("default"))) int tetrace_observer_stream(std::int32_t* device, void** stream) {
  try {
    const CudaStream current = current_stream(static_cast<c10::DeviceIndex>(*device));
    *device = current.stream.device_index();
    *stream = handle_of(&current);
    return 1;
  } catch (...) {
    return 0;
  }
}
}
