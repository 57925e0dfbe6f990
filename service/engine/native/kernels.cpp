// The forward pass over some layers of an encoder, for processors with AVX-512: all rows of a batch, each with its own
// adapter. `Number` is float or bfloat16, the type of token vectors; sums are float32, matrices packed (product.h).
#include "adapters.h"
#include "attention.h"
#include "linear.h"
#include "rows.h"

namespace {

struct Layer {
  Linear qkv, attention_out, ffn_in, ffn_out;
  Norm attention_norm, ffn_norm;  // each follows its sub-layer
  Distances distances;
  const float *cos, *sin;  // [positions, hidden / heads]: angles that queries and keys are turned by; null: none
};

struct Model {
  const Layer* layers;
  int64_t heads, hidden, inner;
  float eps;
  Activation activation;
  int32_t gated;       // whether ffn_in makes a gate too
  int32_t norm_first;  // whether sub-layers add to plain vectors, and read normalised ones
};

enum Target { query, key, value, attention_out, ffn_in, ffn_out, kTargets };
enum Place { after_attention, after_ffn, kPlaces };

struct Batch {
  int64_t tokens, rows, groups;
  const int64_t* positions;   // [tokens]
  const int64_t* row_starts;  // [rows + 1]
  const int64_t* starts;      // [groups + 1], of neighbouring rows that share an adapter
  // Tables of each group's adapter: [layers, kPlaces], [layers, kTargets]; of each row's: [layers]. Any may be null.
  const Site* const* sites;
  const LowRank* const* low_ranks;
  const Prefix* const* prefixes;
  const uint8_t* changed;  // [layers, kTargets]: whether any group has a low-rank change there; null: none has
};

// One linear layer with the low-rank changes to `n` targets from the first on. Changes come after the layer; but before
// it where an activation follows, for that runs within the layer: so its own numbers are the same bits for all rows whose
// adapters change nothing.
template <class Number>
void changed_linear(const Linear& w, Activation activation, const Batch& batch, const Pieces& pieces, long layer,
                    Target first, long n, const Number* x, Number* y) {
  const uint8_t* changed = batch.changed ? batch.changed + layer * kTargets + first : nullptr;
  const bool any = changed && std::memchr(changed, 1, n), before = any && activation != none;
  if (before) std::memset(static_cast<void*>(y), 0, batch.tokens * w.n * sizeof(Number));
  if (!before) linear(w, {activation, false}, x, y, batch.tokens);
  for (long i = 0; any && i < n; i++)
    if (changed[i]) low_rank(pieces, batch.low_ranks, layer * kTargets + first + i, x, w.k, y, w.n);
  if (before) linear(w, {activation, true}, x, y, batch.tokens);
}

// Turns queries and keys by their positions: the first half of a head's numbers is paired with the second.
template <class Number>
void rotate(const Layer& layer, const Model& model, const Batch& batch, Number* qkv) {
  const long size = model.hidden / model.heads, half = size / 2;
  share(batch.tokens, [&](long token) {
    const float *cos = layer.cos + batch.positions[token] * size, *sin = layer.sin + batch.positions[token] * size;
    for (long head = 0; head < 2 * model.heads; head++)
      for (long i = 0; i < half; i += 16) {
        const __mmask16 some = ::first(half - i);
        Number *left = qkv + token * 3 * model.hidden + head * size + i, *right = left + half;
        const __m512 a = load(left, some), b = load(right, some);
        const __m512 minus = _mm512_mul_ps(b, load(sin + i, some));
        const __m512 plus = _mm512_mul_ps(a, load(sin + half + i, some));
        store(left, _mm512_fmsub_ps(a, load(cos + i, some), minus), some);
        store(right, _mm512_fmadd_ps(b, load(cos + half + i, some), plus), some);
      }
  });
}

// wide [tokens, 2·inner] → out [tokens, inner]: the activation of the first half, times the second.
template <class Number>
void gate(const Model& model, long tokens, const Number* wide, Number* out) {
  share(tokens, [&](long token) {
    const Number *left = wide + token * 2 * model.inner, *right = left + model.inner;
    for (long i = 0; i < model.inner; i += 16)
      store(out + token * model.inner + i,
            _mm512_mul_ps(activated(load(left + i), model.activation), load(right + i)));
  });
}

// Layers [from, to), over stream [tokens, hidden], which sub-layers add to, and x, which they read; both are written
// over. Where sub-layers normalise last, the two are the same. `room` holds max(4·hidden, ffn_in + gated·inner) + hidden
// numbers a token.
template <class Number>
void through(const Model& model, const Batch& batch, long from, long to, Number* stream, Number* x, Number* room) {
  const long tokens = batch.tokens, hidden = model.hidden;
  const Pieces pieces(batch.starts, batch.groups);
  Number *projected = room, *wide = room + tokens * hidden;
  Number *qkv = wide, *mixed = qkv + tokens * 3 * hidden, *gated = wide + tokens * 2 * model.inner;
  const auto end = [&](const Norm& norm, long index) {
    Number* sum = model.norm_first ? stream : nullptr;
    close(norm, model.eps, hidden, pieces, batch.sites, index, stream, x, projected, sum, x);
  };
  for (long i = from; i < to; i++) {
    const Layer& layer = model.layers[i];
    changed_linear(layer.qkv, none, batch, pieces, i, query, 3, x, qkv);
    if (layer.cos) rotate(layer, model, batch, qkv);
    attend(layer.distances, model.heads, hidden, batch.row_starts, batch.rows, batch.prefixes, i, qkv, mixed);
    changed_linear(layer.attention_out, none, batch, pieces, i, attention_out, 1, mixed, projected);
    end(layer.attention_norm, i * kPlaces + after_attention);
    changed_linear(layer.ffn_in, model.gated ? none : model.activation, batch, pieces, i, ffn_in, 1, x, wide);
    if (model.gated) gate(model, tokens, wide, gated);
    changed_linear(layer.ffn_out, none, batch, pieces, i, ffn_out, 1, model.gated ? gated : wide, projected);
    end(layer.ffn_norm, i * kPlaces + after_ffn);
  }
}

}  // namespace

extern "C" {

void rootstock_use(Parallel door, uint32_t n) {
  parallel = door;
  threads = n;
}

// Packs w [n, k] of numbers with `bytes` bytes each, of which four bytes are a step (product.h).
void rootstock_pack(const char* w, int64_t n, int64_t k, int64_t bytes, char* out) {
  for (long column = 0; column < n; column += kPanel)
    for (long at = 0; at < k * bytes; at += 4)
      for (long row = column; row < column + 16 * vectors(n, column); row++, out += 4)
        if (row < n)
          std::memcpy(out, w + row * k * bytes + at, 4);
        else
          std::memset(out, 0, 4);
}

#define ROOTSTOCK_EXPORT(name, Number)                                                                                 \
  void rootstock_linear_##name(const Linear* w, int32_t activation, const Number* x, Number* y, int64_t tokens) {      \
    linear(*w, {static_cast<Activation>(activation), false}, x, y, tokens);                                            \
  }                                                                                                                    \
  void rootstock_embed_##name(const Embeddings* from, const int64_t* ids, const int64_t* positions,                    \
                              const int64_t* types, int64_t tokens, Number* out) {                                     \
    embed(*from, ids, positions, types, tokens, out);                                                                  \
  }                                                                                                                    \
  void rootstock_through_##name(const Model* model, const Batch* batch, int64_t from, int64_t to, Number* stream,      \
                                Number* x, Number* room) {                                                             \
    through(*model, *batch, from, to, stream, x, room);                                                                \
  }                                                                                                                    \
  void rootstock_heads_##name(const Number* x, int64_t hidden, const Head* list, int64_t count, float* out) {           \
    heads(x, hidden, list, count, out);                                                                                \
  }

ROOTSTOCK_EXPORT(float32, float)
ROOTSTOCK_EXPORT(bfloat16, bfloat16)
}
