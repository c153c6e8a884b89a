#include "attention/torch/sdpa_torch.h"

#if __has_include(<ATen/ops/scaled_dot_product_attention.h>)
#include <ATen/ops/scaled_dot_product_attention.h>
#else
#include <ATen/ops/_scaled_dot_product_attention.h>
#endif
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/softmax.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/torch/call_torch.h"

namespace pqcache::attention {
namespace {

// [1, heads, rows, D] of [rows, heads, D].
at::Tensor HeadsFirst(const float* data, int64_t rows, int heads, int dim) {
  return at::from_blob(const_cast<float*>(data), {rows, heads, dim}, at::kFloat)
      .transpose(0, 1)
      .unsqueeze(0);
}

// True where a query may attend: [N, T]. Given explicitly, because libtorch's versions differ in
// how they align a causal mask when N < T.
at::Tensor Mask(const SdpaShape& s) {
  at::Tensor mask = at::full({s.n, s.t}, false, at::kBool);
  auto* cells = mask.data_ptr<bool>();
  for (int64_t i = 0; i < s.n; ++i) {
    const int64_t position = s.t - s.n + i;
    const int64_t first =
        s.sliding_window > 0 ? std::max<int64_t>(0, position - s.sliding_window + 1) : 0;
    std::fill(cells + i * s.t + first, cells + i * s.t + position + 1, true);
  }
  return mask;
}

// The one call whose name and result differ between libtorch 1.13 and 2.
at::Tensor Sdpa(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                const at::Tensor& mask) {
#if __has_include(<ATen/ops/scaled_dot_product_attention.h>)
  return at::scaled_dot_product_attention(q, k, v, mask);
#else
  return std::get<0>(at::_scaled_dot_product_attention(q, k, v, mask, 0.0, false, false));
#endif
}

}  // namespace

Result<std::vector<float>> SdpaTorch(const SdpaShape& s, const float* queries, const float* keys,
                                     const float* values) {
  std::vector<float> out(static_cast<size_t>(s.n * s.heads * s.dim));
  const int64_t group = s.heads / s.kv_heads;
  PQCACHE_RETURN_IF_ERROR(CallTorch([&] {
    const at::Tensor k = HeadsFirst(keys, s.t, s.kv_heads, s.dim).repeat_interleave(group, 1);
    const at::Tensor v = HeadsFirst(values, s.t, s.kv_heads, s.dim).repeat_interleave(group, 1);
    const at::Tensor result = Sdpa(HeadsFirst(queries, s.n, s.heads, s.dim), k, v, Mask(s));
    at::from_blob(out.data(), {s.n, s.heads, s.dim}, at::kFloat)
        .copy_(result.squeeze(0).transpose(0, 1));
  }));
  return out;
}

Status MatmulAttentionTorch(int g, int64_t t, int dim, const float* queries, const float* keys,
                            const float* values, float* out) {
  const auto rows = [dim](const float* data, int64_t count) {
    return at::from_blob(const_cast<float*>(data), {count, dim}, at::kFloat);
  };
  return CallTorch([&] {
    const at::Tensor q = at::mul(rows(queries, g), 1.0 / std::sqrt(static_cast<double>(dim)));
    const at::Tensor k = rows(keys, t), v = rows(values, t);
    if (g == 1) {  // products with a one-row matrix are far slower
      const at::Tensor weights = at::softmax(at::mv(k, q[0]), 0);
      rows(out, 1)[0].copy_(at::mv(v.t(), weights));
      return;
    }
    const at::Tensor weights = at::softmax(at::matmul(q, k.t()), 1);
    rows(out, g).copy_(at::matmul(weights, v));
  });
}

}  // namespace pqcache::attention
