// The batched eigendecomposition of cuSOLVER (cusolverDnXsyevBatched), which is found at run time.
//
// cuSOLVER is off by default, because no size has been measured, and scores of SSGE are less
// accurate with it (eigh_library.cuh). The environment variable MIGE_CUSOLVER turns it on. Its
// value is "on" or a path. With "on", the process uses the cuSOLVER that it has already loaded, or
// the cuSOLVER that the dynamic linker finds. (A CUDA build of torch loads cuSOLVER at its first
// linear algebra on a GPU.) With a path, the process uses the library at this path. If the library
// or one of its functions is missing, the operator fails with cudaErrorSharedObjectSymbolNotFound.
#pragma once

#include <cuda_runtime.h>
#include <dlfcn.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <type_traits>
#include <vector>

namespace mige::cuda {

// The arguments of a call of XsyevBatched: `groups` symmetric matrices [n, n], row-major. Only
// their lower triangles are read. The eigenvectors overwrite the matrices, one per row.
struct BatchedEigh {
  void* matrices;
  void* values;   // [groups, n], ascending
  int32_t* info;  // [groups], 0 for success
  int64_t n, groups;
  bool in_double;
};

struct LibraryBuffers {
  size_t on_device = 0, on_host = 0;  // bytes
};

class EighLibrary {
 public:
  // The library, which is loaded once and never unloaded, or nullptr if it cannot be used.
  static const EighLibrary* get() {
    static const EighLibrary instance(std::getenv("MIGE_CUSOLVER"));
    return instance.decompose_ != nullptr ? &instance : nullptr;
  }

  // The sizes of the buffers of a call. The sizes do not depend on the addresses of the arrays. The
  // arrays may not exist yet, so the library gets null pointers. Returns a cudaError_t.
  int buffers(const BatchedEigh& call, LibraryBuffers& sizes) const {
    Handle* const handle = current_handle();
    if (handle == nullptr) return cudaErrorNotSupported;
    const int type = call.in_double ? kReal64 : kReal32;
    return status_of(buffer_size_(handle->solver, handle->parameters, kWithVectors, kUpper, call.n,
                                  type, nullptr, call.n, type, nullptr, type, &sizes.on_device,
                                  &sizes.on_host, call.groups));
  }

  // Enqueues the decomposition. Returns a cudaError_t.
  int decompose(const BatchedEigh& call, void* work, const LibraryBuffers& sizes,
                void* stream) const {
    Handle* const handle = current_handle();
    if (handle == nullptr) return cudaErrorNotSupported;
    const int type = call.in_double ? kReal64 : kReal32;
    if (const int status = set_stream_(handle->solver, stream)) return status_of(status);
    return status_of(decompose_(handle->solver, handle->parameters, kWithVectors, kUpper, call.n,
                                type, call.matrices, call.n, type, call.values, type, work,
                                sizes.on_device, handle->host_buffer(sizes.on_host), sizes.on_host,
                                call.info, call.groups));
  }

 private:
  // Values of cuSOLVER's enumerations. cuSOLVER is column-major, so it sees the lower triangle of a
  // row-major matrix as the upper triangle.
  static constexpr int kWithVectors = 1, kUpper = 1, kReal32 = 0, kReal64 = 1;

  using Create = int (*)(void** handle);
  using SetStream = int (*)(void* handle, void* stream);
  using BufferSize = int (*)(void* handle, void* parameters, int with_vectors, int triangle,
                             int64_t n, int type, const void* a, int64_t lda, int value_type,
                             const void* w, int compute_type, size_t* on_device, size_t* on_host,
                             int64_t batch);
  using Decompose = int (*)(void* handle, void* parameters, int with_vectors, int triangle,
                            int64_t n, int type, void* a, int64_t lda, int value_type, void* w,
                            int compute_type, void* device_buffer, size_t on_device,
                            void* host_buffer, size_t on_host, int* info, int64_t batch);

  // The state of a host thread on a device. Buffers are kept, because a call that is still running
  // may use one.
  struct Handle {
    void *solver = nullptr, *parameters = nullptr;
    std::vector<std::unique_ptr<char[]>> buffers;
    size_t size = 0;

    void* host_buffer(size_t bytes) {
      if (bytes > size) {
        buffers.push_back(std::make_unique<char[]>(bytes));
        size = bytes;
      }
      return buffers.empty() ? nullptr : buffers.back().get();
    }
  };

  explicit EighLibrary(const char* setting) {
    void* library = nullptr;
    if (setting != nullptr && std::strcmp(setting, "on") != 0) {
      library = dlopen(setting, RTLD_LAZY | RTLD_LOCAL);
    } else {
      for (const int flags : {RTLD_LAZY | RTLD_NOLOAD, RTLD_LAZY | RTLD_LOCAL})
        for (const char* const name : {"libcusolver.so.12", "libcusolver.so.11"})
          if (library == nullptr) library = dlopen(name, flags);
    }
    if (library == nullptr) return;
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    Decompose decompose = nullptr;
    if (find(create_, "cusolverDnCreate") && find(create_parameters_, "cusolverDnCreateParams") &&
        find(set_stream_, "cusolverDnSetStream") &&
        find(buffer_size_, "cusolverDnXsyevBatched_bufferSize") &&
        find(decompose, "cusolverDnXsyevBatched"))
      decompose_ = decompose;
  }

  Handle* current_handle() const {
    thread_local std::map<int, Handle> handles;  // the handle for each device
    int device = 0;
    if (cudaGetDevice(&device) != cudaSuccess) return nullptr;
    Handle& handle = handles[device];
    if (handle.solver == nullptr && create_(&handle.solver) != 0) handle.solver = nullptr;
    if (handle.solver == nullptr) return nullptr;
    if (handle.parameters == nullptr && create_parameters_(&handle.parameters) != 0)
      handle.parameters = nullptr;
    return handle.parameters == nullptr ? nullptr : &handle;
  }

  static int status_of(int status) { return status == 0 ? cudaSuccess : cudaErrorUnknown; }

  Create create_ = nullptr, create_parameters_ = nullptr;
  SetStream set_stream_ = nullptr;
  BufferSize buffer_size_ = nullptr;
  Decompose decompose_ = nullptr;
};

}  // namespace mige::cuda
