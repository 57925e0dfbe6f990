// The functions that a transformer needs, sixteen numbers at a time, in the words of whichever instructions are there.
#pragma once
#include <cmath>
#include <initializer_list>

#ifdef __AVX512F__
#include "avx512.h"
#else
#include "avx2.h"
#endif

// e^x within two units in the last place: x = n·ln 2 + r, then a polynomial in r (the Cephes library's).
inline Floats exponential(Floats x) {
  x = min(max(x, all(-104.f)), all(88.7f));
  const Floats n = rounded(x * all(1.44269504f));
  Floats r = fnmadd(n, all(0.693359375f), x);  // ln 2 in two parts, the first one exact
  r = fnmadd(n, all(-2.12194440e-4f), r);
  Floats p = all(1.9875691500e-4f);
  for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
    p = fmadd(p, r, all(c));
  p = fmadd(p, r * r, r);
  return times_power(p + all(1.f), n);
}

inline Floats reciprocal(Floats x) { return all(1.f) / x; }

inline Floats negative(Floats x) { return all(0.f) - x; }

inline Floats sigmoid(Floats x) { return reciprocal(exponential(negative(x)) + all(1.f)); }

// Φ(x) - ½ for x ≥ 0, the normal distribution's half: over each of sixteen intervals the polynomial that is exact at the
// Chebyshev nodes; within 1e-7.
class NormalHalf {
 public:
  NormalHalf() {
    for (int i = 0; i < 16; i++) {
      double node[kTerms], newton[kTerms], terms[kTerms] = {};
      for (int j = 0; j < kTerms; j++) {
        node[j] = .5 * std::cos((j + .5) * M_PI / kTerms);
        newton[j] = .5 * std::erf((i + node[j]) * kWidth * M_SQRT1_2);
      }
      for (int order = 1; order < kTerms; order++)  // divided differences
        for (int j = kTerms - 1; j >= order; j--)
          newton[j] = (newton[j] - newton[j - 1]) / (node[j] - node[j - order]);
      for (int j = kTerms - 1; j >= 0; j--) {  // terms := terms · (t - node) + newton
        for (int power = kTerms - 1; power > 0; power--) terms[power] = terms[power - 1] - node[j] * terms[power];
        terms[0] = newton[j] - node[j] * terms[0];
      }
      for (int power = 0; power < kTerms; power++) terms_[power][i] = static_cast<float>(terms[power]);
    }
  }

  Floats operator()(Floats x) const {
    const Floats at = min(x * all(1 / kWidth), all(15.49f));
    const Floats interval = rounded(at), t = at - interval;
    Floats y = pick(terms_[kTerms - 1], interval);
    for (int power = kTerms - 2; power >= 0; power--) y = fmadd(y, t, pick(terms_[power], interval));
    return y;
  }

 private:
  static constexpr int kTerms = 5;
  static constexpr float kWidth = .36f;  // beyond the last interval the half is ½ in float32
  alignas(64) float terms_[kTerms][16];
};

inline const NormalHalf normal_half;

// x·Φ(x).
inline Floats gelu(Floats x) {
  const Floats size = absolute(x);
  return fmadd(size, normal_half(size), x * all(.5f));
}

inline Floats gelu_tanh(Floats x) {
  const Floats u = fmadd(x * x * x, all(0.044715f), x);
  return x * sigmoid(u * all(2 * 0.7978845608f));
}

enum Activation : int32_t { none, gelu_exact, gelu_by_tanh, rectified, swish, hyperbolic };

inline Floats activated(Floats x, Activation activation) {
  switch (activation) {
    case gelu_exact: return gelu(x);
    case gelu_by_tanh: return gelu_tanh(x);
    case rectified: return max(x, all(0.f));
    case swish: return x * sigmoid(x);
    case hyperbolic: return fmsub(all(2.f), sigmoid(x + x), all(1.f));
    default: return x;
  }
}
