// Products of token vectors with a matrix, in float32, bfloat16 or integers; and the base's linear layers:
// y = activation(x·wᵀ + bias).
#pragma once
#include <algorithm>
#include <cmath>

#include "product.h"
#include "threads.h"

template <class Number>
struct FormatOf;
template <>
struct FormatOf<float> {
  using type = Float32;
};
template <>
struct FormatOf<bfloat16> {
  using type = BFloat16;
};

constexpr long kTile = 48;  // tokens that one thread takes at once; twice as many where threads part the columns

// What the integers of one token's vector stand for: scale · (integer - zero).
struct Quantised {
  float scale, zero;
};

inline Range range(const float* x, long n) {
  Floats low{}, high{};
  for (long i = 0; i < n; i += 16) {
    low = min(low, load(x + i));
    high = max(high, load(x + i));
  }
  return {least(low), most(high)};
}

constexpr float kNothing = 1e-30f;  // a vector whose numbers are no wider than that is taken for zeros

// A vector in steps, of which zero is one: from its least number to its largest, or on both sides as far as the
// farthest.
template <class Format, class Number>
Quantised quantise(const Number* x, long n, typename Format::Number* out) {
  constexpr float steps = Format::kSteps;
  const auto [least, most] = range(x, n);
  const float width = Format::kSigned ? std::max(-least, most) : most - least;
  const float by = width > kNothing ? steps / width : 0.f, zero = Format::kSigned ? 0.f : std::nearbyint(-least * by);
  for (long i = 0; i < n; i += 16) store_rounded(out + i, fmadd(load(x + i), all(by), all(zero)));
  return {width / steps, zero};
}

// A matrix [n, k] and what is added to its products; in integers, or in the type of token vectors.
struct Matrix {
  const char* packed;
  const float* scale;  // integers alone, [n]: what one step of a weight is worth
  const float* total;  // where tokens' integers are unsigned, [n]: the sum of the row's weights
  const float* bias;   // [n]; null: none
};

inline Floats bias_of(const Matrix& w, long column) { return w.bias ? load(w.bias + column) : Floats{}; }

inline thread_local Scratch as_integers;  // tokens; not in `scratch`, where they may come from

// As `product`, with the bias, of x [m, k], which is cast to integers first.
template <class Format, class Number, class Columns, class Fetch = NothingAhead>
void product_of_integers(long m, const Number* x, const Matrix& w, long k, long n, long from, long to,
                         Columns columns, Fetch&& ahead = {}) {
  using Integer = typename Format::Number;
  auto* tokens = static_cast<Quantised*>(as_integers.room(m * (k * sizeof(Integer) + sizeof(Quantised))));
  auto* integers = reinterpret_cast<Integer*>(tokens + m);
  for (long r = 0; r < m; r++) tokens[r] = quantise<Format>(x + r * k, k, integers + r * k);
  product<Format>(m, integers, k, w.packed, k, n, from, to, [&](long column) {
    const Floats scale = load(w.scale + column), bias = bias_of(w, column);
    const Floats total = Format::kSigned ? Floats{} : load(w.total + column);
    const auto take = columns(column);
    return [=](long row, Words sum) {
      Floats exact = converted(sum);
      if constexpr (!Format::kSigned) exact = fnmadd(all(tokens[row].zero), total, exact);
      take(row, fmadd(exact, scale * all(tokens[row].scale), bias));
    };
  }, ahead);
}

// The same of numbers as they are.
template <class Number, class Columns, class Fetch = NothingAhead>
void product_of_floats(long m, const Number* x, const Matrix& w, long k, long n, long from, long to, Columns columns,
                       Fetch&& ahead = {}) {
  product<typename FormatOf<Number>::type>(m, x, k, w.packed, k, n, from, to, [&](long column) {
    const Floats bias = bias_of(w, column);
    const auto take = columns(column);
    return [=](long row, Floats sum) { take(row, sum + bias); };
  }, ahead);
}

struct Linear {
  Matrix weights;
  int64_t n, k;
  int64_t bytes;  // of a weight
};

// How sums become y: plus what was laid down there before, if so, and through an activation.
struct Finish {
  Activation activation;
  bool onto;
};

// Tokens [from, to) of x [·, k], columns [left, right) of y [·, n].
template <class Number>
void linear(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left, long right) {
  const auto columns = [&](long column) {
    Number* made = y + from * w.n + column;
    return [=, &w, &how](long row, Floats sum) {
      Number* to = made + row * w.n;
      store(to, activated(how.onto ? sum + load(to) : sum, how.activation));
    };
  };
  const Number* read = x + from * w.k;
  if (!w.weights.scale)
    product_of_floats(to - from, read, w.weights, w.k, w.n, left, right, columns);
  else if (w.bytes == 1)
    product_of_integers<Int8>(to - from, read, w.weights, w.k, w.n, left, right, columns);
  else
    product_of_integers<Int16>(to - from, read, w.weights, w.k, w.n, left, right, columns);
}

template <class Number>
void linear(const Linear& w, const Finish& how, const Number* x, Number* y, long tokens) {
  const long panels = (w.n + kPanel - 1) / kPanel;
  // A few tokens stay together, and threads part the columns: then each weight comes from memory once, to one of them.
  const long down = tokens <= 2 * kTile && panels >= 2 * workers() ? 1 : pieces(tokens, kTile);
  const long tile = ((tokens + down - 1) / down + kRows - 1) / kRows * kRows;
  const long tiles = (tokens + tile - 1) / tile;
  const long across = tiles >= workers() ? 1 : pieces(panels, (panels * tiles + workers() - 1) / workers());
  const long stripe = (panels + across - 1) / across * kPanel;
  share(tiles * across, [&](long i) {
    const long from = i / across * tile, to = from + tile < tokens ? from + tile : tokens;
    const long left = i % across * stripe, right = left + stripe < w.n ? left + stripe : w.n;
    if (left < right) linear(w, how, x, y, from, to, left, right);
  });
}
