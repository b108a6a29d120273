// The common part of all operators: makes inputs contiguous, allocates outputs, and calls the CPU
// code or the CUDA launcher with typed pointers.
//
// The file of each operator checks the arguments, gives the shapes of the outputs, and lists the
// arguments of the computation (common/operators.h):
//
//   Operator op("rbf_gradient_sum", "x", x, 1);
//   const Input sigma = op.bandwidth(bandwidth);
//   const Output out = op.output({op.rows, op.columns});
//   op.run<RbfGradientSumArguments>(MIGE_KERNELS(rbf_gradient_sum), op.x, sigma, …, out);
#pragma once

#include <initializer_list>
#include <vector>

#include "bind/checks.h"
#include "cpu/interrupt.h"
#include "cpu/operators.h"
#include "cuda/launchers.h"

namespace mige::bind {

#ifdef MIGE_WITH_CUDA
constexpr bool kWithCuda = true;
#else
constexpr bool kWithCuda = false;
#endif

// A contiguous input tensor: matrices [groups, rows, columns] or bandwidths [groups]. An Input
// converts to a pointer, which is nullptr if the tensor is not given.
struct Input {
  const char* name;
  std::optional<Tensor> tensor;
  int64_t rows, columns;  // both 0 for a bandwidth

  template <typename T>
  operator const T*() const {
    // The data pointer of an empty tensor is null too, so another address replaces it.
    static constexpr T kEmpty{};
    if (!tensor) return nullptr;
    const auto* data = static_cast<const T*>(tensor->const_data_ptr());
    return data ? data : &kEmpty;
  }
};

// A new tensor. An Output converts to a pointer.
struct Output {
  Tensor tensor;

  template <typename T>
  operator T*() const {
    return static_cast<T*>(tensor.mutable_data_ptr());
  }
};

// Three function objects: the CPU code, the CUDA launcher, and the size of its workspace.
#define MIGE_KERNELS(name)                                                     \
  [](const auto& arguments) { mige::cpu::name(arguments); },                   \
      [](const auto&... arguments) { return mige::cuda::name(arguments...); }, \
      [](const auto& arguments) { return mige::cuda::name##_work(arguments); }

class Operator {
 public:
  // The tensor `x` (..., rows, columns) determines the dtype, the device and the groups of all
  // other tensors. Without `min_rows` the caller has already checked x.
  Operator(const char* name, const char* x_name, const Tensor& x, std::optional<int64_t> min_rows)
      : name_(name), x_name_(x_name), like_(x) {
    if (min_rows) check_samples(x_name, x, *min_rows);
    for (int64_t i = 0; i + 2 < x.dim(); ++i) {
      batch_.push_back(x.size(i));
      groups *= x.size(i);
    }
    rows = bind::rows(x);
    columns = bind::columns(x);
    this->x = read(x_name, x, rows, columns);
  }

  // Another input matrix (..., rows, columns).
  Input matrix(const char* name, const Tensor& t) {
    check_like(name, t, 2, x_name_, like_);
    return read(name, t, bind::rows(t), bind::columns(t));
  }

  // A matrix (..., M, d) of the same shape as x.
  Input like_samples(const char* name, const Tensor& t) {
    const Input input = matrix(name, t);
    check_count(name, input.rows, "rows", x_name_, rows);
    check_count(name, input.columns, "columns", x_name_, columns);
    return input;
  }
  // One number for each row of x, (..., M).
  Input like_rows(const char* name, const Tensor& t) {
    check_like(name, t, 1, x_name_, like_);
    check_count(name, t.size(t.dim() - 1), "rows", x_name_, rows);
    return read(name, t, rows, 1);
  }

  // Points (..., N, d) with as many columns as x. If no tensor is given, the points are x itself.
  Input points(const char* name, const std::optional<Tensor>& t) {
    if (!t) return {name, std::nullopt, rows, columns};
    check_samples(name, *t, 0);
    check_like(name, *t, 2, x_name_, like_);
    check_count(name, bind::columns(*t), "columns", x_name_, columns);
    return read(name, *t, bind::rows(*t), columns);
  }

  // One positive σ per group.
  Input bandwidth(const std::optional<Tensor>& t) {
    if (!t) return {"bandwidth", std::nullopt, 0, 0};
    check_like("bandwidth", *t, 0, x_name_, like_);
    return read("bandwidth", *t, 0, 0);
  }

  // A new tensor (..., tail) with the leading dimensions of x.
  Output output(std::initializer_list<int64_t> tail) const { return {allocate(tail)}; }
  // A new integer for each group.
  Output integer_output() const { return {allocate({}, ScalarType::Long)}; }

  // Calls on_cpu(a) or on_cuda(a, workspace, stream) with a = Arguments<T>{values…}, where T is the
  // type of the tensors' values. The values of the inputs are checked on the CPU only, because on
  // CUDA the check would have to wait for the device.
  template <template <typename> class Arguments, typename Cpu, typename Cuda, typename Work,
            typename... Values>
  void run(const Cpu& on_cpu, const Cuda& on_cuda, const Work& work_of,
           const Values&... values) const {
    const auto with_type = [&](auto zero) {
      const Arguments<decltype(zero)> arguments{values...};
      if (!like_.is_cuda()) {
        for (const Input& input : inputs_) check_values<decltype(zero)>(input);
        cpu::Interruption interruption;
        const cpu::Interruptible scope(&interruption);
        on_cpu(arguments);
      } else if constexpr (kWithCuda) {
        const CudaStream stream(like_);
        // This library has its own copy of the CUDA runtime, whose device torch's guard does not
        // set.
        if (const int status = cuda::use_device(like_.get_device_index()); status != 0)
          fail(name_, ": CUDA error ", status, ": ", cuda::error_text(status));
        // `memory` may be freed before the kernels end, because torch's allocator reuses it only
        // for later work of the same stream.
        const Tensor memory =
            torch::stable::new_empty(like_, {work_of(arguments)}, ScalarType::Byte);
        const int status = on_cuda(arguments, memory.mutable_data_ptr(), stream.get());
        if (status != 0) fail(name_, ": CUDA error ", status, ": ", cuda::error_text(status));
      } else {
        fail("NotImplementedError: mige_ext.ops.", name_,
             " cannot run on CUDA tensors: mige_ext was built without nvcc");
      }
    };
    if (like_.scalar_type() == ScalarType::Float)
      with_type(float());
    else
      with_type(double());
  }

  int64_t groups = 1, rows = 0, columns = 0;  // sizes of x
  Input x;

 private:
  // Sets the current device to the device of a tensor until destruction, and gives the current
  // stream of this device.
  class CudaStream {
   public:
    explicit CudaStream(const Tensor& t) {
      if (!cuda_torch_found()) fail("this torch has no CUDA support, got a CUDA tensor");
      // The guard is created last: if a line throws, the destructor does not run.
      STABLE_TORCH_ERROR_CODE_CHECK(
          aoti_torch_get_current_cuda_stream(t.get_device_index(), &stream_));
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_create_cuda_guard(t.get_device_index(), &guard_));
    }
    ~CudaStream() { aoti_torch_delete_cuda_guard(guard_); }
    CudaStream(const CudaStream&) = delete;
    CudaStream& operator=(const CudaStream&) = delete;

    void* get() const { return stream_; }

   private:
    CUDAGuardOpaque* guard_ = nullptr;
    void* stream_ = nullptr;
  };

  // Makes t contiguous, and records it as an input whose values are checked.
  Input read(const char* name, const Tensor& t, int64_t t_rows, int64_t t_columns) {
    inputs_.push_back({name, torch::stable::contiguous(t), t_rows, t_columns});
    return inputs_.back();
  }

  // A new tensor with the leading dimensions of x, followed by `tail`.
  Tensor allocate(std::initializer_list<int64_t> tail,
                  std::optional<ScalarType> dtype = std::nullopt) const {
    std::vector<int64_t> shape = batch_;
    shape.insert(shape.end(), tail);
    return torch::stable::new_empty(like_, shape, dtype);
  }

  template <typename T>
  void check_values(const Input& input) const {
    const T* values = input;
    if (input.tensor->dim() == static_cast<int64_t>(batch_.size()))
      check_bandwidth(values, groups);
    else
      check_finite(input.name, values, groups, input.rows, input.columns);
  }

  const char *name_, *x_name_;
  const Tensor like_;
  std::vector<int64_t> batch_;
  std::vector<Input> inputs_;
};

// Registers the function mige::bind::name as the implementation of the operator `name` on both
// devices.
#define MIGE_REGISTER(name)                                                                    \
  STABLE_TORCH_LIBRARY_IMPL(mige_ext, CPU, m) { m.impl(#name, TORCH_BOX(&mige::bind::name)); } \
  STABLE_TORCH_LIBRARY_IMPL(mige_ext, CUDA, m) { m.impl(#name, TORCH_BOX(&mige::bind::name)); }

}  // namespace mige::bind
