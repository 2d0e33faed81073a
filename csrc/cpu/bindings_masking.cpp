// Masks, tokens and patches as torch.ops.fastssl_cpp.
#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "gather_tokens.h"
#include "mask_patchify.h"
#include "masked_mse.h"
#include "masking.h"
#include "restore_tokens.h"

namespace fastssl {
namespace {

using std::optional;
using Pair = std::tuple<Tensor, Tensor>;
using Triplet = std::tuple<Tensor, Tensor, Tensor>;

// The ids outlive the result.
Samples samples_of(const optional<Tensor>& seed, const optional<Tensor>& ids, int64_t n, int64_t view) {
  return {seed ? static_cast<uint64_t>(seed->item<int64_t>()) : 0, ids ? ids->const_data_ptr<int64_t>() : nullptr, n,
          static_cast<uint32_t>(view), threads()};
}

optional<Tensor> contiguous(const optional<Tensor>& t) { return t ? optional<Tensor>(t->contiguous()) : t; }

Triplet random_masking_fwd(const optional<Tensor>& seed, const optional<Tensor>& noise, const optional<Tensor>& ids,
                           const optional<Tensor>& keep, int64_t n, int64_t length, int64_t prefix, int64_t num_keep,
                           int64_t num_masked, int64_t view, at::Device) {
  const auto sample_ids = contiguous(ids), counts = contiguous(keep), given = contiguous(noise);
  Tensor shuffle = fresh({n, num_keep + num_masked}, at::kLong), restore = fresh({n, length}, at::kLong);
  Tensor mask = fresh({n, length}, at::kFloat);
  random_masking({samples_of(seed, sample_ids, n, view), given ? given->const_data_ptr() : nullptr,
                  given && given->scalar_type() == at::kDouble, counts ? counts->const_data_ptr<int64_t>() : nullptr,
                  length, prefix, num_keep, num_masked, shuffle.mutable_data_ptr<int64_t>(),
                  restore.mutable_data_ptr<int64_t>(), mask.mutable_data_ptr<float>()});
  return {shuffle, restore, mask};
}

Tensor multiblock_masking_fwd(const Tensor& seed, const optional<Tensor>& ids, int64_t n, at::IntArrayRef grid,
                              int64_t blocks, at::ArrayRef<double> table, bool shared_size, int64_t view, at::Device) {
  const auto sample_ids = contiguous(ids);
  Tensor mask = fresh({n, blocks, grid[0] * grid[1] * grid[2]}, at::kBool);
  multiblock_masking(samples_of(seed, sample_ids, n, view), table.data(), shared_size, static_cast<int>(blocks),
                     static_cast<int>(grid[0]), static_cast<int>(grid[1]), static_cast<int>(grid[2]),
                     mask.mutable_data_ptr<bool>());
  return mask;
}

Tensor blockwise_masking_fwd(const Tensor& seed, const optional<Tensor>& ids, const Tensor& target, int64_t n,
                             int64_t height, int64_t width, int64_t min_patches, int64_t max_patches,
                             at::ArrayRef<double> log_aspect, int64_t view, at::Device) {
  const auto sample_ids = contiguous(ids);
  Tensor mask = fresh({n, height * width}, at::kBool);
  const int64_t most = height * width;
  blockwise_masking(samples_of(seed, sample_ids, n, view), target.const_data_ptr<int64_t>(), target.stride(0),
                    static_cast<int>(std::min<int64_t>(min_patches, INT32_MAX)),
                    static_cast<int>(std::min(max_patches, most)), log_aspect.data(), static_cast<int>(height),
                    static_cast<int>(width), mask.mutable_data_ptr<bool>());
  return mask;
}

Pair text_masking_fwd(const Tensor& tokens, const optional<Tensor>& special, const Tensor& seed,
                      const optional<Tensor>& ids, int64_t mask_token_id, int64_t vocab_size,
                      at::IntArrayRef thresholds, int64_t ignore_index, int64_t view) {
  const auto sample_ids = contiguous(ids), never = contiguous(special);
  const Tensor text = tokens.contiguous();
  Tensor inputs = fresh(tokens.sizes(), at::kLong), labels = fresh(tokens.sizes(), at::kLong);
  text_masking({samples_of(seed, sample_ids, tokens.size(0), view), text.const_data_ptr<int64_t>(),
                never ? never->const_data_ptr<bool>() : nullptr, tokens.size(1), mask_token_id, vocab_size,
                thresholds[0], thresholds[1], thresholds[2], ignore_index, inputs.mutable_data_ptr<int64_t>(),
                labels.mutable_data_ptr<int64_t>()});
  return {inputs, labels};
}

// The same rows with their elements side by side.
Tensor as_rows(const Tensor& x) { return x.size(2) > 1 && x.stride(2) != 1 ? x.contiguous() : x; }

TokenRows rows_of(const Tensor& x) {
  return {x.const_data_ptr(), element_type(x.scalar_type()), x.stride(0), x.stride(1)};
}

TokenIds ids_of(const Tensor& ids) {
  return {ids.const_data_ptr<int64_t>(), ids.stride(0), ids.stride(1), ids.size(1)};
}

Tensor gather_tokens_fwd(const Tensor& tokens, const Tensor& ids, int64_t prefix) {
  const Tensor x = as_rows(tokens);
  const int64_t element = x.element_size();
  Tensor out = fresh({ids.size(0), prefix + ids.size(1), x.size(2)}, x.scalar_type());
  gather_kernels(capability())
      .gather({static_cast<const char*>(x.const_data_ptr()), x.stride(0) * element, x.stride(1) * element,
               x.size(2) * element, ids_of(ids), ids.size(0), x.size(1), prefix, threads(),
               static_cast<char*>(out.mutable_data_ptr())});
  return out;
}

// The sum of the rows of x by the row that their ids name; `length` rows a sample.
Tensor collect_rows(const Tensor& x, const Tensor& ids, int64_t length, int64_t prefix) {
  const int64_t n = x.size(0);
  Tensor out = fresh({n, length, x.size(2)}, x.scalar_type());
  Tensor first = fresh({n, length - prefix}, at::kInt), next = fresh({n, ids.size(1)}, at::kInt);
  gather_kernels(capability())
      .collect({rows_of(x), ids_of(ids), n, length, prefix, x.size(2), threads(), first.mutable_data_ptr<int>(),
                next.mutable_data_ptr<int>(), out.mutable_data_ptr()});
  return out;
}

Tensor gather_tokens_bwd(const Tensor& grad, const Tensor& ids, int64_t length, int64_t prefix) {
  return collect_rows(as_rows(grad), ids, length, prefix);
}

Tensor restore_tokens_fwd(const Tensor& visible, const Tensor& ids, const Tensor& mask_token,
                          const optional<Tensor>& pos, int64_t prefix, at::ScalarType dtype) {
  const Tensor x = as_rows(visible), token = mask_token.to(at::kFloat).contiguous();
  const auto places = pos ? optional<Tensor>(pos->to(at::kFloat).contiguous()) : pos;
  Tensor out = fresh({x.size(0), prefix + ids.size(1), x.size(2)}, dtype);
  restore_kernels(capability())
      .restore({rows_of(x), ids_of(ids), x.size(0), x.size(1), prefix, x.size(2), token.const_data_ptr<float>(),
                places ? places->const_data_ptr<float>() : nullptr, threads(), element_type(dtype),
                out.mutable_data_ptr()});
  return out;
}

Triplet restore_tokens_bwd(const Tensor& grad, const Tensor& ids, int64_t num_visible, int64_t prefix, bool with_pos) {
  const Tensor x = as_rows(grad);
  const int64_t rows = x.size(1), width = x.size(2);
  const int chunks = static_cast<int>(std::min<int64_t>(rows, 64));
  Tensor token = fresh({width}, at::kFloat), workspace = fresh({chunks, width}, at::kDouble);
  Tensor pos = with_pos ? fresh({rows, width}, at::kFloat) : fresh({0}, at::kFloat);
  restore_kernels(capability())
      .sums({rows_of(x), ids_of(ids), x.size(0), num_visible, prefix, width, threads(), chunks,
             workspace.mutable_data_ptr<double>(), token.mutable_data_ptr<float>(),
             with_pos ? pos.mutable_data_ptr<float>() : nullptr});
  return {collect_rows(x, ids, num_visible, prefix), token, pos};
}

// Patches of images [N, C, T, H, W]. `factors` receives scale and shift of each element, and outlives the result.
Patches patches_of(const Tensor& images, at::IntArrayRef patch, at::ArrayRef<double> scale, at::ArrayRef<double> shift,
                   bool channels_last, std::vector<float>& factors) {
  Patches p{images.const_data_ptr(), element_type(images.scalar_type()),
            images.stride(0),        images.stride(1),
            images.stride(2),        images.stride(3),
            images.stride(4)};
  p.channels = static_cast<int>(images.size(1));
  p.frames = static_cast<int>(patch[0]), p.height = static_cast<int>(patch[1]), p.width = static_cast<int>(patch[2]);
  p.grid_frames = static_cast<int>(images.size(2) / patch[0]);
  p.grid_height = static_cast<int>(images.size(3) / patch[1]);
  p.grid_width = static_cast<int>(images.size(4) / patch[2]);
  p.channels_last = channels_last, p.plain = true;
  for (int c = 0; c < p.channels; ++c) p.plain = p.plain && scale[c] == 1 && shift[c] == 0;
  if (p.plain) return p;
  const int64_t size = p.size(), pixels = size / p.channels;
  factors.resize(2 * size);
  for (int64_t i = 0; i < size; ++i) {
    const int64_t c = channels_last ? i % p.channels : i / pixels;
    factors[i] = static_cast<float>(scale[c]), factors[size + i] = static_cast<float>(shift[c]);
  }
  p.scale = factors.data(), p.shift = factors.data() + size;
  return p;
}

Pair mask_patchify_fwd(const Tensor& images, const Tensor& ids, at::IntArrayRef patch, const optional<Tensor>& pos,
                       at::ArrayRef<double> scale, at::ArrayRef<double> shift, bool channels_last,
                       at::ScalarType dtype) {
  std::vector<float> factors;
  const Patches p = patches_of(images, patch, scale, shift, channels_last, factors);
  const int64_t n = ids.size(0);
  Tensor out = fresh({n, ids.size(1), p.size()}, dtype);
  patch_kernels(capability()).patchify({p, ids_of(ids), n, threads(), element_type(dtype), out.mutable_data_ptr()});
  if (!pos) return {out, fresh({0}, at::kFloat)};
  return {out, gather_tokens_fwd(pos->unsqueeze(0).expand({n, pos->size(0), pos->size(1)}), ids, 0)};
}

Tensor mask_patchify_bwd(const Tensor& grad, const Tensor& ids, int64_t tokens) {
  const Tensor x = as_rows(grad);
  const int64_t n = x.size(0);
  Tensor out = fresh({tokens, x.size(2)}, at::kFloat);
  Tensor first = fresh({n, tokens}, at::kInt), next = fresh({n, ids.size(1)}, at::kInt);
  patch_kernels(capability())
      .sum({rows_of(x), ids_of(ids), n, tokens, x.size(2), threads(), first.mutable_data_ptr<int>(),
            next.mutable_data_ptr<int>(), out.mutable_data_ptr<float>()});
  return out;
}

Pair masked_mse_fwd(const Tensor& pred, const Tensor& images, const optional<Tensor>& ids,
                    const optional<Tensor>& weights, at::IntArrayRef patch, int64_t loss, double beta, bool norm_pix,
                    bool channels_last, at::ArrayRef<double> scale, at::ArrayRef<double> shift, bool with_grad) {
  const Tensor x = as_rows(pred);
  const int64_t n = x.size(0), rows = x.size(1);
  std::vector<float> factors;
  MaskedMSE m{};
  m.patches = patches_of(images, patch, scale, shift, channels_last, factors);
  m.pred = rows_of(x), m.n = n, m.rows = rows;
  if (ids) m.ids = ids_of(*ids);
  if (weights) {
    m.weights = weights->const_data_ptr<float>();
    m.weight_sample = weights->stride(0), m.weight_token = weights->stride(1);
  }
  m.loss = static_cast<PatchLoss>(loss), m.beta = static_cast<float>(beta), m.norm_pix = norm_pix;
  m.threads = threads();
  // A gradient of float16 would underflow before it is scaled up.
  const at::ScalarType grad_type = x.scalar_type() == at::kHalf ? at::kFloat : x.scalar_type();
  Tensor grad = with_grad ? fresh(x.sizes(), grad_type) : fresh({0}, grad_type);
  Tensor value = fresh({}, at::kFloat), partial = fresh({n, rows}, at::kFloat);
  m.partial = partial.mutable_data_ptr<float>(), m.value = value.mutable_data_ptr<float>();
  m.grad = with_grad ? grad.mutable_data_ptr() : nullptr, m.grad_type = element_type(grad_type);
  masked_mse_kernels(capability()).forward(m);
  return {value, grad};
}

}  // namespace
}  // namespace fastssl

TORCH_LIBRARY_FRAGMENT(fastssl_cpp, m) {
  m.def(
      "random_masking_fwd(Tensor? seed, Tensor? noise, Tensor? sample_ids, Tensor? keep, int n, int length, int prefix,"
      " int num_keep, int num_masked, int view, Device device) -> (Tensor, Tensor, Tensor)",
      fastssl::random_masking_fwd);
  m.def(
      "multiblock_masking_fwd(Tensor seed, Tensor? sample_ids, int n, int[] grid, int num_blocks, float[] table,"
      " bool shared_size, int view, Device device) -> Tensor",
      fastssl::multiblock_masking_fwd);
  m.def(
      "blockwise_masking_fwd(Tensor seed, Tensor? sample_ids, Tensor target, int n, int height, int width,"
      " int min_patches, int max_patches, float[] log_aspect, int view, Device device) -> Tensor",
      fastssl::blockwise_masking_fwd);
  m.def(
      "text_masking_fwd(Tensor tokens, Tensor? special, Tensor seed, Tensor? sample_ids, int mask_token_id,"
      " int vocab_size, int[] thresholds, int ignore_index, int view) -> (Tensor, Tensor)",
      fastssl::text_masking_fwd);
  m.def("gather_tokens_fwd(Tensor x, Tensor ids, int prefix) -> Tensor", fastssl::gather_tokens_fwd);
  m.def("gather_tokens_bwd(Tensor grad, Tensor ids, int length, int prefix) -> Tensor", fastssl::gather_tokens_bwd);
  m.def(
      "restore_tokens_fwd(Tensor visible, Tensor ids, Tensor mask_token, Tensor? pos, int prefix, ScalarType dtype)"
      " -> Tensor",
      fastssl::restore_tokens_fwd);
  m.def(
      "restore_tokens_bwd(Tensor grad, Tensor ids, int num_visible, int prefix, bool with_pos)"
      " -> (Tensor, Tensor, Tensor)",
      fastssl::restore_tokens_bwd);
  m.def(
      "mask_patchify_fwd(Tensor images, Tensor ids, int[] patch, Tensor? pos, float[] scale, float[] shift,"
      " bool channels_last, ScalarType dtype) -> (Tensor, Tensor)",
      fastssl::mask_patchify_fwd);
  m.def("mask_patchify_bwd(Tensor grad, Tensor ids, int tokens) -> Tensor", fastssl::mask_patchify_bwd);
  m.def(
      "masked_mse_fwd(Tensor pred, Tensor images, Tensor? ids, Tensor? weights, int[] patch, int loss, float beta,"
      " bool norm_pix, bool channels_last, float[] scale, float[] shift, bool with_grad) -> (Tensor, Tensor)",
      fastssl::masked_mse_fwd);
}
