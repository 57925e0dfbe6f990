// Linear layers of the base: y = activation(x·wᵀ + bias), in float32, bfloat16 or integers.
#pragma once
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

constexpr float kNothing = 1e-30f;  // a vector whose numbers lie no farther apart is taken for zeros

// A vector in kSteps steps from its least number to its largest. Zero is among them, and exact.
template <class Number>
Quantised quantise(const Number* x, long n, Integer* out) {
  const auto [least, most] = range(x, n);
  const float width = most - least, by = width > kNothing ? kSteps / width : 0.f, zero = std::nearbyint(-least * by);
  for (long i = 0; i < n; i += 16) store_rounded(out + i, fmadd(load(x + i), all(by), all(zero)));
  return {width / kSteps, zero};
}

struct Linear {
  const char* packed;
  const float* bias;   // [n]
  const float* scale;  // integers alone, [n]: what one step of a weight is worth
  const float* total;  // integers alone, [n]: the sum of the row's weights
  int64_t n, k;
};

// How sums become y: plus what was laid down there before, if so, and through an activation.
struct Finish {
  Activation activation;
  bool onto;
};

template <class Number>
void finish(const Finish& how, Floats sum, Number* y) {
  store(y, activated(how.onto ? sum + load(y) : sum, how.activation));
}

// Tokens [from, to) of x [·, k], columns [left, right) of y [·, n].
template <class Number>
void linear_float(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                  long right) {
  using Format = typename FormatOf<Number>::type;
  product<Format>(to - from, x + from * w.k, w.k, w.packed, w.k, w.n, left, right,
                  [&](long column) {
                    const Floats bias = load(w.bias + column);
                    Number* to = y + from * w.n + column;
                    return [=, &w, &how](long row, Floats sum) { finish(how, sum + bias, to + row * w.n); };
                  });
}

template <class Number>
void linear_integers(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                     long right) {
  const long m = to - from;
  auto* tokens = static_cast<Quantised*>(scratch.room(m * (w.k * sizeof(Integer) + sizeof(Quantised))));
  auto* integers = reinterpret_cast<Integer*>(tokens + m);
  for (long r = 0; r < m; r++) tokens[r] = quantise(x + (from + r) * w.k, w.k, integers + r * w.k);
  product<Integers>(m, integers, w.k, w.packed, w.k, w.n, left, right, [&](long column) {
    const Floats scale = load(w.scale + column), total = load(w.total + column), bias = load(w.bias + column);
    Number* to = y + from * w.n + column;
    return [=, &w, &how](long row, Words sum) {
      const Floats exact = fnmadd(all(tokens[row].zero), total, converted(sum));
      finish(how, fmadd(exact, scale * all(tokens[row].scale), bias), to + row * w.n);
    };
  });
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
    if (left >= right) return;
    if (w.scale)
      linear_integers(w, how, x, y, from, to, left, right);
    else
      linear_float(w, how, x, y, from, to, left, right);
  });
}
