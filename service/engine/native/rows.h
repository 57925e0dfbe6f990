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
  Floats whole{}, squares{};
  for (long i = 0; i < n; i += 16) whole = whole + load(x + i);
  const Floats mean = all(sum(whole) / n);
  for (long i = 0; i < n; i += 16) {
    const Floats off = load(x + i) - mean;
    squares = fmadd(off, off, squares);
  }
  const Floats by = all(1.f / std::sqrt(sum(squares) / n + eps));
  for (long i = 0; i < n; i += 16)
    store(out + i, fmadd((load(x + i) - mean) * by, load(norm.gain + i), load(norm.shift + i)));
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
        Floats x = load(word + j);
        if (position) x = x + load(position + j);
        if (type) x = x + load(type + j);
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
    const Floats by = all(1.f / (head.to - head.from));
    for (long j = 0; j < hidden; j += 16) {
      Floats whole{};
      for (long token = head.from; token < head.to; token++) whole = whole + load(x + token * hidden + j);
      store(mean + j, whole * by);
    }
    for (long row = 0; head.weight && row < head.width; row++) {
      Floats products{};
      for (long j = 0; j < hidden; j += 16)
        products = fmadd(load(head.weight + row * hidden + j), load(mean + j), products);
      out[head.out + row] = sum(products) + head.bias[row];
    }
  });
}
