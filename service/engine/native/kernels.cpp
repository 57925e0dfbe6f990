// The forward pass over some layers of an encoder: all rows of a batch, each with its own adapter. `Number` is float or
// bfloat16, the type of token vectors; sums are float32, matrices packed (product.h). All this is compiled once for each
// kind of processor (vectors.h).
#include <algorithm>
#include <vector>

#include "adapters.h"
#include "attention.h"
#include "laying.h"
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
  int64_t room;        // numbers a token that a pass works in: hidden + max(4·hidden, ffn_in + gated·inner)
};

constexpr long kPart = 128;  // tokens that one thread takes through all layers, at most

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

// Some rows of a batch, and their tokens.
struct Part {
  long first_row, last_row, from, to;
};

// One linear layer with the low-rank changes to `n` targets from the first on. Changes come after the layer; but before
// it where an activation follows, for that runs within the layer: so its own numbers are the same bits for all rows
// whose adapters change nothing.
template <class Number>
void changed_linear(const Linear& w, Activation activation, const Batch& batch, const Part& part, const Pieces& pieces,
                    long layer, Target first, long n, const Number* x, Number* y) {
  const uint8_t* changed = batch.changed ? batch.changed + layer * kTargets + first : nullptr;
  const bool any = changed && std::memchr(changed, 1, n), before = any && activation != none;
  const long tokens = part.to - part.from;
  const Number* read = x + part.from * w.k;
  Number* made = y + part.from * w.n;
  if (before) std::memset(static_cast<void*>(made), 0, tokens * w.n * sizeof(Number));
  if (!before) linear(w, {activation, false}, read, made, tokens);
  for (long i = 0; any && i < n; i++)
    if (changed[i]) low_rank(pieces, batch.low_ranks, layer * kTargets + first + i, x, w.k, y, w.n);
  if (before) linear(w, {activation, true}, read, made, tokens);
}

// Turns queries and keys by their positions: the first half of a head's numbers is paired with the second.
template <class Number>
void rotate(const Layer& layer, const Model& model, const Batch& batch, const Part& part, Number* qkv) {
  const long size = model.hidden / model.heads, half = size / 2;
  share(part.to - part.from, [&](long i) {
    const long token = part.from + i;
    const float *cos = layer.cos + batch.positions[token] * size, *sin = layer.sin + batch.positions[token] * size;
    for (long head = 0; head < 2 * model.heads; head++)
      for (long j = 0; j < half; j += 16) {
        const Mask some = ::first(half - j);
        Number *left = qkv + token * 3 * model.hidden + head * size + j, *right = left + half;
        const Floats a = load(left, some), b = load(right, some);
        const Floats minus = b * load(sin + j, some), plus = a * load(sin + half + j, some);
        store(left, fmsub(a, load(cos + j, some), minus), some);
        store(right, fmadd(b, load(cos + half + j, some), plus), some);
      }
  });
}

// wide [tokens, 2·inner] → out [tokens, inner]: the activation of the first half, times the second.
template <class Number>
void gate(const Model& model, const Part& part, const Number* wide, Number* out) {
  share(part.to - part.from, [&](long i) {
    const long token = part.from + i;
    const Number *left = wide + token * 2 * model.inner, *right = left + model.inner;
    for (long j = 0; j < model.inner; j += 16)
      store(out + token * model.inner + j, activated(load(left + j), model.activation) * load(right + j));
  });
}

// Layers [from, to), over the rows of a part.
template <class Number>
void through_part(const Model& model, const Batch& batch, const Part& part, long from, long to, Number* stream,
                  Number* x, Number* room) {
  const long hidden = model.hidden;
  const Pieces pieces(batch.starts, batch.groups, part.from, part.to);
  // Each part works in a room of its own, where the batch's tokens are found by their numbers.
  Number* left = room + part.from * model.room;
  const auto take = [&](long numbers) {
    Number* taken = left - part.from * numbers;
    left += (part.to - part.from) * numbers;
    return taken;
  };
  Number *projected = take(hidden), *shared = left;
  Number *qkv = take(3 * hidden), *mixed = take(hidden);
  left = shared;  // by the time of the second sub-layer, what the first one needed is free
  Number *wide = take(model.gated ? 2 * model.inner : model.inner), *gated = take(model.gated ? model.inner : 0);
  const auto end = [&](const Norm& norm, long index) {
    Number* sum = model.norm_first ? stream : nullptr;
    close(norm, model.eps, hidden, pieces, batch.sites, index, stream, x, projected, sum, x);
  };
  for (long i = from; i < to; i++) {
    const Layer& layer = model.layers[i];
    changed_linear(layer.qkv, none, batch, part, pieces, i, query, 3, x, qkv);
    if (layer.cos) rotate(layer, model, batch, part, qkv);
    attend(layer.distances, model.heads, hidden, batch.row_starts, part.first_row, part.last_row, batch.prefixes, i,
           qkv, mixed);
    changed_linear(layer.attention_out, none, batch, part, pieces, i, attention_out, 1, mixed, projected);
    end(layer.attention_norm, i * kPlaces + after_attention);
    changed_linear(layer.ffn_in, model.gated ? none : model.activation, batch, part, pieces, i, ffn_in, 1, x, wide);
    if (model.gated) gate(model, part, wide, gated);
    changed_linear(layer.ffn_out, none, batch, part, pieces, i, ffn_out, 1, model.gated ? gated : wide, projected);
    end(layer.ffn_norm, i * kPlaces + after_ffn);
  }
}

// Layers [from, to), over stream [tokens, hidden], which sub-layers add to, and x, which they read; both are written
// over. Where sub-layers normalise last, the two are the same.
//
// Rows do not touch each other. So a large batch is parted, and each thread takes its parts through all layers, waiting
// for nobody; a small one goes through them whole, and the threads share each step. There are more parts than threads: one
// that is held up, by an adapter being read or by another process, leaves the next part to the others.
template <class Number>
void through(const Model& model, const Batch& batch, long from, long to, Number* stream, Number* x, Number* room) {
  const long tokens = batch.tokens, many = workers(), n = many * ((tokens + kPart * many - 1) / (kPart * many));
  const auto first_row = [&](long part) {  // the one that begins next to its share of the tokens
    long row = 0;
    while (row < batch.rows && batch.row_starts[row] + batch.row_starts[row + 1] < 2 * part * tokens / n) row++;
    return row;
  };
  const auto part_of = [&](long i) {
    const long row = first_row(i), end = i + 1 < n ? first_row(i + 1) : batch.rows;
    return Part{row, end, batch.row_starts[row], batch.row_starts[end]};
  };
  std::vector<long> taken(many);  // tokens, by whoever is free first
  for (long i = 0; i < n; i++) {
    const Part part = part_of(i);
    *std::min_element(taken.begin(), taken.end()) += part.to - part.from;
  }
  const long most = *std::max_element(taken.begin(), taken.end());
  if (many < 2 || tokens < 2 * kTile * many || most > tokens / many + kTile) {
    through_part(model, batch, {0, batch.rows, 0, tokens}, from, to, stream, x, room);
    return;
  }
  share(n, [&](long i) {
    const Part part = part_of(i);
    if (part.from == part.to) return;  // beside a row that is longer than a part
    alone = true;
    through_part(model, batch, part, from, to, stream, x, room);
    alone = false;
  });
}

}  // namespace

extern "C" {

void rootstock_use(int64_t n) { threads = n; }

int32_t rootstock_lay(const Tensor* tensors, int64_t count) { return lay(tensors, count); }

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
  void rootstock_heads_##name(const Number* x, int64_t hidden, const Head* list, int64_t count, float* out) {          \
    heads(x, hidden, list, count, out);                                                                                \
  }

ROOTSTOCK_EXPORT(float32, float)
ROOTSTOCK_EXPORT(bfloat16, bfloat16)
}
