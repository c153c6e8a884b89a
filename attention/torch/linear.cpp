#include "attention/torch/linear.h"

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/mv.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>

#include "attention/torch/call_torch.h"

namespace pqcache::attention {
namespace {

constexpr int64_t kTileRows = 256;  // rows of x in a tile, when there are many
constexpr int64_t kTileOuts = 256;  // outputs in a tile, when there are few rows
constexpr int64_t kManyRows = 128;

at::Tensor View(const float* data, int64_t rows, int64_t columns) {
  return at::from_blob(const_cast<float*>(data), {rows, columns}, at::kFloat);
}

}  // namespace

struct Linear::Impl {
  int64_t in = 0, out = 0;
  at::Tensor weight;        // [out, in] in the compute dtype
  std::vector<float> bias;  // [out] or empty

  // Rows [row, row + n) of x, outputs [first, first + count).
  void ApplyTile(int64_t n, const float* x, int64_t first, int64_t count, float* y) const {
    const at::Tensor w = weight.narrow(0, first, count);
    const at::Tensor input = View(x, n, in);
    at::Tensor target = at::from_blob(y + first, {n, count}, {out, 1}, at::kFloat);
    if (weight.scalar_type() == at::kFloat) {
      // OpenBLAS' matrix-vector product is an order of magnitude faster than its product with a
      // one-row matrix.
      target.copy_(n == 1 ? at::mv(w, input.view({in})).view({1, count}) : at::mm(input, w.t()));
    } else {
      target.copy_(at::linear(input.to(weight.scalar_type()), w));
    }
    if (bias.empty()) return;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = first; j < first + count; ++j)
        y[i * out + j] += bias[static_cast<size_t>(j)];
    }
  }
};

Linear::Linear(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Linear::Linear(Linear&&) noexcept = default;
Linear& Linear::operator=(Linear&&) noexcept = default;
Linear::~Linear() = default;

int64_t Linear::in() const { return impl_->in; }
int64_t Linear::out() const { return impl_->out; }

Result<Linear> Linear::Create(std::vector<float> weight, std::vector<float> bias, int64_t in,
                              int64_t out, DType compute) {
  PQCACHE_CHECK(weight.size() == static_cast<size_t>(in * out), "weight is [out, in]");
  PQCACHE_CHECK(bias.empty() || bias.size() == static_cast<size_t>(out), "bias is [out]");
  auto impl = std::make_unique<Impl>();
  impl->in = in;
  impl->out = out;
  impl->bias = std::move(bias);
  PQCACHE_RETURN_IF_ERROR(CallTorch([&] {
    impl->weight = View(weight.data(), out, in)
                       .to(compute == DType::kBF16 ? at::kBFloat16 : at::kFloat,
                           /*non_blocking=*/false, /*copy=*/true);
  }));
  return Linear(std::move(impl));
}

Status Linear::Apply(int64_t n, const float* x, float* y, ThreadPool* pool) const {
  const int64_t in = impl_->in, out = impl_->out;
  const bool by_rows = n >= kManyRows;
  const int64_t tiles =
      by_rows ? (n + kTileRows - 1) / kTileRows : (out + kTileOuts - 1) / kTileOuts;
  return pool->RunChecked(tiles, [&](int64_t tile) {
    const c10::InferenceMode guard;
    return CallTorch([&] {
      if (by_rows) {
        const int64_t row = tile * kTileRows;
        impl_->ApplyTile(std::min(kTileRows, n - row), x + row * in, 0, out, y + row * out);
      } else {
        const int64_t first = tile * kTileOuts;
        impl_->ApplyTile(n, x, first, std::min(kTileOuts, out - first), y);
      }
    });
  });
}

void Linear::CopyRow(int64_t r, float* x) const {
  View(x, 1, impl_->in).copy_(impl_->weight.narrow(0, r, 1));
}

bool HasNativeBFloat16() { return __builtin_cpu_supports("avx512bf16") != 0; }

}  // namespace pqcache::attention
