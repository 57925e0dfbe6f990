// What differs from task to task: each segment of a batch's tokens with the adapter that it belongs to.
#pragma once
#include "linear.h"
#include "rows.h"

// An adapter at the end of one sub-layer. What its pointers point to lies in one piece, from `down` on.
struct Site {
  Matrix down, up;            // [width, hidden] and [hidden, width]; null: no bottleneck
  const float *gain, *shift;  // [hidden]; null: the base's own LayerNorm
  int32_t width;              // a multiple of 16
  Activation activation;
  int32_t beside;             // whether it reads what the sub-layer read, not what it made
  int32_t unused;
};

// A low-rank change to what one linear layer makes, or to the queries, keys or values of it.
struct LowRank {
  Matrix down, up;  // [rank, in] and [out, rank]; null: none
  int32_t rank;     // a multiple of 16
  int32_t out;      // columns changed
  int64_t first;    // the first of them
};

// Weights that are wanted soon. Every task has its own, so they come from memory, where the base's are in the cache.
class Ahead {
 public:
  Ahead(const char* from, const char* to) : next_(from), end_(to) {}
  void pull() {
    if (next_ < end_) _mm_prefetch(next_, _MM_HINT_T1), next_ += 64;
  }

 private:
  const char *next_, *end_;
};

// As `product`, with the bias, of x [m, k] and all of a matrix [n, k], in whichever type that is.
template <class Number, class Columns>
void product_with(const Matrix& w, long m, const Number* x, long k, long n, Columns columns, Ahead& ahead) {
  if (w.scale)
    product_of_integers<Int16>(m, x, w, k, n, 0, n, columns, ahead);
  else
    product_of_floats(m, x, w, k, n, 0, n, columns, ahead);
}

// Where a matrix with so many numbers ends.
template <class Number>
const char* end(const Matrix& w, long numbers) {
  return w.packed + numbers * (w.scale ? sizeof(Int16::Weight) : sizeof(Number));
}

// Some tokens of one segment: as many as share what the first of them brought into the cache.
struct Piece {
  long segment, from, to;
};
constexpr long kPiece = 30;

// Tokens [from, to) of a batch in pieces; `starts` are those of its segments.
class Pieces {
 public:
  Pieces(const int64_t* starts, long segments, long from, long to) {
    list = static_cast<Piece*>(std::malloc((segments + (to - from) / kPiece + 1) * sizeof(Piece)));
    for (long i = 0; i < segments; i++) {
      const long begin = starts[i] > from ? starts[i] : from, end = starts[i + 1] < to ? starts[i + 1] : to;
      for (long at = begin; at < end; at += kPiece) list[count++] = {i, at, at + kPiece < end ? at + kPiece : end};
    }
  }
  ~Pieces() { std::free(list); }
  Pieces(const Pieces&) = delete;

  Piece* list;
  long count = 0;
};

// y [m, hidden] += up(activation(down(x))).
template <class Number>
void bottleneck(const Site& site, const Number* x, long m, long hidden, Number* inner, float* y, Ahead& ahead) {
  const long width = site.width;
  product_with(site.down, m, x, hidden, width, [&](long column) {
    return [=, &site](long row, Floats sum) {
      store(inner + row * width + column, activated(sum, site.activation));
    };
  }, ahead);
  product_with(site.up, m, inner, width, hidden, [&](long column) {
    return [=](long row, Floats sum) {
      float* to = y + row * hidden + column;
      store(to, load(to) + sum);
    };
  }, ahead);
}

// Ends a sub-layer: adapter, residual, LayerNorm. `adapters` has a table of sites for each segment, or null.
template <class Number>
void close(const Norm& own, float eps, long hidden, const Pieces& pieces, const Site* const* adapters, long index,
           const Number* stream, const Number* entered, const Number* projected, Number* sum, Number* out) {
  static const Site bare{};
  const auto site_of = [&](long i) -> const Site& {
    const Site* sites = adapters && i < pieces.count ? adapters[pieces.list[i].segment] : nullptr;
    return sites ? sites[index] : bare;
  };
  share(pieces.count, [&](long i) {
    const Piece& piece = pieces.list[i];
    const Site &site = site_of(i), &next = site_of(i + workers());
    const long m = piece.to - piece.from, at = piece.from * hidden;
    auto* y = static_cast<float*>(scratch.room(m * (hidden + site.width) * sizeof(float)));
    auto* inner = reinterpret_cast<Number*>(y + m * hidden);
    for (long j = 0; j < m * hidden; j += 16)
      store(y + j, load(stream + at + j) + load(projected + at + j));
    const char* wanted = next.down.packed;
    Ahead ahead(wanted, wanted == site.down.packed ? wanted : end<Number>(next.up, next.width * hidden));
    if (site.down.packed) bottleneck(site, (site.beside ? entered : projected) + at, m, hidden, inner, y, ahead);
    const Norm norm = site.gain ? Norm{site.gain, site.shift} : own;
    for (long r = 0; r < m; r++) normalise(y + r * hidden, hidden, norm, eps, out + at + r * hidden);
    if (sum)
      for (long j = 0; j < m * hidden; j += 16) store(sum + at + j, load(y + j));
  });
}

// Adds the changes to y [·, n]. `adapters` has a table of them for each segment, or null.
template <class Number>
void low_rank(const Pieces& pieces, const LowRank* const* adapters, long index, const Number* x, long k, Number* y,
              long n) {
  static const LowRank nothing{};
  const auto part_of = [&](long i) -> const LowRank& {
    const LowRank* parts = i < pieces.count ? adapters[pieces.list[i].segment] : nullptr;
    return parts ? parts[index] : nothing;
  };
  share(pieces.count, [&](long i) {
    const Piece& piece = pieces.list[i];
    const LowRank &part = part_of(i), &next = part_of(i + workers());
    if (!part.down.packed) return;
    const char* wanted = next.down.packed;
    Ahead ahead(wanted, wanted == part.down.packed ? wanted : end<Number>(next.up, next.rank * next.out));
    const long m = piece.to - piece.from, rank = part.rank;
    auto* inner = static_cast<Number*>(scratch.room(m * rank * sizeof(Number)));
    product_with(part.down, m, x + piece.from * k, k, rank, [&](long column) {
      return [=](long row, Floats sum) {
        store(inner + row * rank + column, sum);
      };
    }, ahead);
    product_with(part.up, m, inner, rank, part.out, [&](long column) {
      Number* changed = y + piece.from * n + part.first + column;
      return [=](long row, Floats sum) {
        Number* to = changed + row * n;
        store(to, load(to) + sum);
      };
    }, ahead);
  });
}
