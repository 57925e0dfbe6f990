// Where a pass begins and ends: tokens embedded, rows pooled; and LayerNorm, which is wherever tokens are.
#pragma once
#include <cmath>

#include "threads.h"
#include "vectors.h"

struct Norm {
  const float *gain, *shift;  // [hidden]
};

template <class Number>
void normalise(const float* x, long n, const Norm& norm, float eps, Number* out) {
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (long i = 0; i < n; i += 16) sum = _mm512_add_ps(sum, load(x + i));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
  for (long i = 0; i < n; i += 16) {
    const __m512 off = _mm512_sub_ps(load(x + i), mean);
    squares = _mm512_fmadd_ps(off, off, squares);
  }
  const __m512 by = _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / n + eps));
  for (long i = 0; i < n; i += 16)
    store(out + i, _mm512_fmadd_ps(_mm512_mul_ps(_mm512_sub_ps(load(x + i), mean), by), load(norm.gain + i),
                                   load(norm.shift + i)));
}

struct Embeddings {
  const float *word, *position, *type;  // [·, size] each; the last two may be null
  const float *gain, *shift;            // the LayerNorm's
  float eps;
  int64_t size;
};

template <class Number>
void embed(const Embeddings& from, const int64_t* ids, const int64_t* positions, const int64_t* types, long tokens,
           Number* out) {
  const long size = from.size, parts = pieces(tokens, kTile), each = (tokens + parts - 1) / parts;
  share(parts, [&](long part) {
    auto* sum = static_cast<float*>(scratch.room(size * sizeof(float)));
    for (long i = part * each; i < tokens && i < (part + 1) * each; i++) {
      const float* word = from.word + ids[i] * size;
      const float* position = from.position ? from.position + positions[i] * size : nullptr;
      const float* type = from.type ? from.type + types[i] * size : nullptr;
      for (long j = 0; j < size; j += 16) {
        __m512 x = load(word + j);
        if (position) x = _mm512_add_ps(x, load(position + j));
        if (type) x = _mm512_add_ps(x, load(type + j));
        store(sum + j, x);
      }
      normalise(sum, size, {from.gain, from.shift}, from.eps, out + i * size);
    }
  });
}

// What a head reads and where its answer goes.
struct Head {
  int64_t from, to;           // the mean of these tokens
  const float *weight, *bias;  // [width, hidden], [width]; null: the mean is the answer
  int64_t width, out;         // how many numbers, and where the first one goes
};

// Every head on its tokens of x [·, hidden].
template <class Number>
void heads(const Number* x, long hidden, const Head* list, long count, float* out) {
  share(count, [&](long i) {
    const Head& head = list[i];
    auto* mean = head.weight ? static_cast<float*>(scratch.room(hidden * sizeof(float))) : out + head.out;
    const __m512 by = _mm512_set1_ps(1.f / (head.to - head.from));
    for (long j = 0; j < hidden; j += 16) {
      __m512 sum = _mm512_setzero_ps();
      for (long token = head.from; token < head.to; token++) sum = _mm512_add_ps(sum, load(x + token * hidden + j));
      store(mean + j, _mm512_mul_ps(sum, by));
    }
    for (long row = 0; head.weight && row < head.width; row++) {
      __m512 sum = _mm512_setzero_ps();
      for (long j = 0; j < hidden; j += 16)
        sum = _mm512_fmadd_ps(load(head.weight + row * hidden + j), load(mean + j), sum);
      out[head.out + row] = _mm512_reduce_add_ps(sum) + head.bias[row];
    }
  });
}
