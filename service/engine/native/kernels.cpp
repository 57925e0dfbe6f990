// What a pass over a batch spends its time in, for processors with AVX-512: linear layers, attention within rows, the end
// of a sub-layer with every adapter on its own tokens, and low-rank changes. Matrices are packed (product.h). `Number` is
// float or bfloat16, the type of token vectors; all sums are float32. Called from `__init__.py`, which says what the
// arguments are.
#include <cmath>

#include "product.h"
#include "threads.h"

namespace {

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

constexpr long kTile = 48;  // tokens that one thread takes at once
constexpr long kShort = 30; // the same where adapters are small, and their tokens few

float largest(__m512 x) { return _mm512_reduce_max_ps(x); }

// A row of floats as bytes around 128, and what one of them is worth.
template <class Number>
float quantise(const Number* x, long n, uint8_t* out) {
  __m512 most = _mm512_setzero_ps();
  for (long i = 0; i < n; i += 16) most = _mm512_max_ps(most, _mm512_abs_ps(load(x + i)));
  const float scale = largest(most) / 127.f;
  const __m512 by = _mm512_set1_ps(scale > 0 ? 1.f / scale : 0.f);
  for (long i = 0; i < n; i += 16) {
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + i), by));
    const __m128i bytes = _mm_add_epi8(_mm512_cvtsepi32_epi8(whole), _mm_set1_epi8(static_cast<char>(0x80)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), bytes);
  }
  return scale;
}

struct Linear {
  const char* packed;
  const float* bias;   // [n], or null
  const float* scale;  // int8 alone, [n]: what one step of a weight is worth
  const float* centre; // int8 alone, [n]: 128 times the sum of the row's weights
  int64_t n, k;
};

// How sums become y: plus what was laid down there before, if so, and through an activation.
struct Finish {
  Activation activation;
  bool onto;
};

template <class Number>
void finish(const Finish& how, __m512 sum, Number* y) {
  store(y, activated(how.onto ? _mm512_add_ps(sum, load(y)) : sum, how.activation));
}

// Tokens [from, to) of x [·, k], columns [left, right) of y [·, n].
template <class Number>
void linear_float(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                  long right) {
  using Format = typename FormatOf<Number>::type;
  product<Format>(to - from, x + from * w.k, w.k, w.packed, w.k / Format::step, w.n, left, right,
                  [&](long row, int rows, long column, int wide, const __m512* sums) {
                    for (int v = 0; v < wide; v++) {
                      const long at = column + 16 * v;
                      const __m512 bias = w.bias ? load(w.bias + at) : _mm512_setzero_ps();
                      for (int r = 0; r < rows; r++)
                        finish(how, _mm512_add_ps(sums[4 * r + v], bias), y + (from + row + r) * w.n + at);
                    }
                  });
}

template <class Number>
void linear_int8(const Linear& w, const Finish& how, const Number* x, Number* y, long from, long to, long left,
                 long right) {
  const long m = to - from;
  auto* scales = static_cast<float*>(scratch.room(m * (w.k + sizeof(float))));
  auto* bytes = reinterpret_cast<uint8_t*>(scales + m);
  for (long r = 0; r < m; r++) scales[r] = quantise(x + (from + r) * w.k, w.k, bytes + r * w.k);
  product<Int8>(m, bytes, w.k, w.packed, w.k / 4, w.n, left, right,
                [&](long row, int rows, long column, int wide, const __m512i* sums) {
                  for (int v = 0; v < wide; v++) {
                    const long at = column + 16 * v;
                    const __m512 bias = w.bias ? load(w.bias + at) : _mm512_setzero_ps();
                    const __m512 scale = load(w.scale + at), centre = load(w.centre + at);
                    for (int r = 0; r < rows; r++) {
                      const __m512 sum = _mm512_sub_ps(_mm512_cvtepi32_ps(sums[4 * r + v]), centre);
                      const __m512 by = _mm512_mul_ps(scale, _mm512_set1_ps(scales[row + r]));
                      finish(how, _mm512_fmadd_ps(sum, by, bias), y + (from + row + r) * w.n + at);
                    }
                  }
                });
}

template <class Number>
void linear(const Linear& w, const Finish& how, const Number* x, Number* y, long tokens) {
  const long down = pieces(tokens, kTile);
  const long tile = ((tokens + down - 1) / down + kRows - 1) / kRows * kRows;
  const long tiles = (tokens + tile - 1) / tile;
  const long panels = (w.n + kPanel - 1) / kPanel;
  const long across = tiles >= threads ? 1 : pieces(panels, (panels * tiles + threads - 1) / threads);
  const long stripe = (panels + across - 1) / across * kPanel;
  share(tiles * across, [&](long i) {
    const long from = i / across * tile, to = from + tile < tokens ? from + tile : tokens;
    const long left = i % across * stripe, right = left + stripe < w.n ? left + stripe : w.n;
    if (left >= right) return;
    if (w.scale)
      linear_int8(w, how, x, y, from, to, left, right);
    else
      linear_float(w, how, x, y, from, to, left, right);
  });
}

struct Norm {
  const float *gain, *shift;  // [hidden]
  float eps;
};

// An adapter at the end of one sub-layer.
struct Site {
  const char *down, *up;                    // packed [width, hidden] and [hidden, width]; null: no bottleneck
  const float *down_bias, *up_bias;         // [width], [hidden]
  const float *gain, *shift;                // [hidden]; null: the base's own LayerNorm
  int32_t width;                            // a multiple of 16
  Activation activation;
  int32_t beside;                           // whether it reads what the sub-layer read, not what it made
  int32_t unused;
};

// Some tokens of one segment, and who changes them.
struct Piece {
  long segment, from, to;
};

// Cuts segments [starts[i], starts[i + 1]) into pieces; gives them to `work`, shared between threads.
template <class Work>
void share_segments(const int64_t* starts, long segments, const Work& work) {
  long n = 0;
  for (long i = 0; i < segments; i++) n += (starts[i + 1] - starts[i] + kShort - 1) / kShort;
  auto* list = static_cast<Piece*>(std::malloc(n * sizeof(Piece)));
  for (long i = 0, next = 0; i < segments; i++)
    for (long from = starts[i]; from < starts[i + 1]; from += kShort)
      list[next++] = {i, from, from + kShort < starts[i + 1] ? from + kShort : starts[i + 1]};
  share(n, [&](long i) { work(list[i]); });
  std::free(list);
}

// y [m, hidden] += up(activation(down(x))).
template <class Number>
void bottleneck(const Site& site, const Number* x, long m, long hidden, Number* inner, float* y) {
  using Format = typename FormatOf<Number>::type;
  const long width = site.width;
  product<Format>(m, x, hidden, site.down, hidden / Format::step, width, 0, width,
                  [&](long row, int rows, long column, int wide, const __m512* sums) {
                    for (int v = 0; v < wide; v++) {
                      const long at = column + 16 * v;
                      for (int r = 0; r < rows; r++)
                        store(inner + (row + r) * width + at,
                              activated(_mm512_add_ps(sums[4 * r + v], load(site.down_bias + at)), site.activation));
                    }
                  });
  product<Format>(m, inner, width, site.up, width / Format::step, hidden, 0, hidden,
                  [&](long row, int rows, long column, int wide, const __m512* sums) {
                    for (int v = 0; v < wide; v++) {
                      const long at = column + 16 * v;
                      for (int r = 0; r < rows; r++) {
                        float* sum = y + (row + r) * hidden + at;
                        store(sum, _mm512_add_ps(load(sum), _mm512_add_ps(sums[4 * r + v], load(site.up_bias + at))));
                      }
                    }
                  });
}

template <class Number>
void normalise(const float* x, long n, const Norm& norm, Number* out) {
  __m512 sum = _mm512_setzero_ps(), squares = _mm512_setzero_ps();
  for (long i = 0; i < n; i += 16) sum = _mm512_add_ps(sum, load(x + i));
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / n);
  for (long i = 0; i < n; i += 16) {
    const __m512 off = _mm512_sub_ps(load(x + i), mean);
    squares = _mm512_fmadd_ps(off, off, squares);
  }
  const __m512 by = _mm512_set1_ps(1.f / std::sqrt(_mm512_reduce_add_ps(squares) / n + norm.eps));
  for (long i = 0; i < n; i += 16)
    store(out + i, _mm512_fmadd_ps(_mm512_mul_ps(_mm512_sub_ps(load(x + i), mean), by), load(norm.gain + i), load(norm.shift + i)));
}

template <class Number>
void close(const Norm& own, long hidden, long index, const int64_t* starts, const Site* const* adapters, long segments,
           const Number* stream, const Number* entered, const Number* projected, Number* sum, Number* out) {
  share_segments(starts, segments, [&](const Piece& piece) {
    static const Site bare{};
    const Site* sites = adapters[piece.segment];
    const Site& site = sites ? sites[index] : bare;
    const long m = piece.to - piece.from, at = piece.from * hidden;
    auto* y = static_cast<float*>(scratch.room(m * (hidden + site.width) * sizeof(float)));
    auto* inner = reinterpret_cast<Number*>(y + m * hidden);
    for (long i = 0; i < m * hidden; i += 16)
      store(y + i, _mm512_add_ps(load(stream + at + i), load(projected + at + i)));
    if (site.down) bottleneck(site, (site.beside ? entered : projected) + at, m, hidden, inner, y);
    const Norm norm = site.gain ? Norm{site.gain, site.shift, own.eps} : own;
    for (long r = 0; r < m; r++) normalise(y + r * hidden, hidden, norm, out + at + r * hidden);
    if (sum)
      for (long i = 0; i < m * hidden; i += 16) store(sum + at + i, load(y + i));
  });
}

// A low-rank change to what one linear layer makes, or to the queries, keys or values of it. Laid down in y before the
// layer itself runs, so that its own numbers are the same bits for the rows of adapters that change nothing.
struct LowRank {
  const char *down, *up;  // packed [rank, in] and [out, rank]; null: none
  int32_t rank;           // a multiple of 16
  int32_t out;            // columns changed
  int64_t first;          // the first of them
};

template <class Number>
void low_rank(long index, const int64_t* starts, const LowRank* const* adapters, long segments, const Number* x, long k, Number* y,
              long n) {
  using Format = typename FormatOf<Number>::type;
  share_segments(starts, segments, [&](const Piece& piece) {
    const LowRank* parts = adapters[piece.segment];
    if (!parts || !parts[index].down) return;
    const LowRank* part = &parts[index];
    const long m = piece.to - piece.from, rank = part->rank;
    auto* inner = static_cast<Number*>(scratch.room(m * rank * sizeof(Number)));
    product<Format>(m, x + piece.from * k, k, part->down, k / Format::step, rank, 0, rank,
                    [&](long row, int rows, long column, int wide, const __m512* sums) {
                      for (int v = 0; v < wide; v++)
                        for (int r = 0; r < rows; r++) store(inner + (row + r) * rank + column + 16 * v, sums[4 * r + v]);
                    });
    product<Format>(m, inner, rank, part->up, rank / Format::step, part->out, 0, part->out,
                    [&](long row, int rows, long column, int wide, const __m512* sums) {
                      for (int v = 0; v < wide; v++)
                        for (int r = 0; r < rows; r++)
                          store(y + (piece.from + row + r) * n + part->first + column + 16 * v, sums[4 * r + v]);
                    });
  });
}

// Keys and values that a row attends to besides its own, [heads, length, size] each.
struct Prefix {
  const float *keys, *values;
  int64_t length;
};

struct Attention {
  int64_t heads, size;   // of them, and numbers in one
  const float* added;    // what scores gain by distance, a table for all heads or one for each; null: nothing
  int64_t added_stride;  // from a head's table to the next one's; 0: one for all
  int64_t middle;        // where a table has distance 0
  int64_t free;          // rows up to this length gain nothing
};

// Sixteen rows of sixteen numbers become columns.
void transpose(__m512 (&x)[16]) {
  __m512 y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; j++) {
      const __m512d a = _mm512_castps_pd(y[i + j]), b = _mm512_castps_pd(y[i + j + 2]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++) {
      y[4 * j + i] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0x88);
      y[4 * j + i + 8] = _mm512_shuffle_f32x4(x[8 * j + i], x[8 * j + i + 4], 0xdd);
    }
  for (int i = 0; i < 4; i++) {
    x[i] = _mm512_shuffle_f32x4(y[i], y[i + 4], 0x88);
    x[i + 8] = _mm512_shuffle_f32x4(y[i], y[i + 4], 0xdd);
    x[i + 4] = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0x88);
    x[i + 12] = _mm512_shuffle_f32x4(y[i + 8], y[i + 12], 0xdd);
  }
}

// Keys [count, size], `stride` apart, into rows [first, first + count) of a packed [keys, size].
template <class Number>
void pack_keys(const Number* from, long stride, long count, long size, long first_key, long keys, float* packed) {
  for (long key = 0; key < count; key += 16)
    for (long i = 0; i < size; i += 16) {
      __m512 block[16];
      for (int r = 0; r < 16; r++)
        block[r] = key + r < count ? load(from + (key + r) * stride + i, first(size - i)) : _mm512_setzero_ps();
      transpose(block);
      const long valid = count - key < 16 ? count - key : 16, to = first_key + key;
      for (int r = 0; r < 16 && i + r < size; r++)
        if (to % 16 == 0) {
          const long panel = to / kPanel * kPanel, wide = 16 * vectors(keys, panel);
          store(packed + panel * size + (i + r) * wide + to % kPanel, block[r]);
        } else {  // behind a prefix: key by key, for a vector may lie in two panels
          alignas(64) float column[16];
          store(column, block[r]);
          for (long j = 0; j < valid; j++) {
            const long panel = (to + j) / kPanel * kPanel, wide = 16 * vectors(keys, panel);
            packed[panel * size + (i + r) * wide + (to + j) % kPanel] = column[j];
          }
        }
    }
}

// Values [count, size] into steps [first, first + count) of a packed [size, keys].
template <class Number>
void pack_values(const Number* from, long stride, long count, long size, long first_key, long keys, float* packed) {
  for (long column = 0; column < size; column += kPanel) {
    const int wide = vectors(size, column);
    float* panel = packed + column * keys;
    for (long key = 0; key < count; key++)
      for (int v = 0; v < wide; v++)
        store(panel + (first_key + key) * 16 * wide + 16 * v,
              load(from + key * stride + column + 16 * v, first(size - column - 16 * v)));
  }
}

// Scores become shares that still want dividing; gives back by what.
float soften(float* scores, long keys) {
  __m512 most = _mm512_set1_ps(-INFINITY);
  for (long i = 0; i < keys; i += 16)
    most = _mm512_mask_max_ps(most, first(keys - i), most, load(scores + i));
  const __m512 top = _mm512_set1_ps(largest(most));
  __m512 sum = _mm512_setzero_ps();
  for (long i = 0; i < keys; i += 16) {
    const __m512 share = _mm512_maskz_mov_ps(first(keys - i), exponential(_mm512_sub_ps(load(scores + i), top)));
    store(scores + i, share);
    sum = _mm512_add_ps(sum, share);
  }
  return _mm512_reduce_add_ps(sum);
}

// One head of one row: queries, keys and values from qkv [length, 3·hidden] to out [length, hidden].
template <class Number>
void attend_head(const Attention& how, const Number* qkv, Number* out, long length, long head, const Prefix* prefix) {
  const long size = how.size, hidden = how.heads * size, stride = 3 * hidden, before = prefix ? prefix->length : 0;
  const long keys = before + length, wide = padded(keys), tall = padded(size);
  auto* packed_keys = static_cast<float*>(scratch.room((wide * size + keys * tall + kRows * (size + wide)) * sizeof(float)));
  float *packed_values = packed_keys + wide * size, *queries = packed_values + keys * tall, *scores = queries + kRows * size;
  const Number *q = qkv + head * size, *k = q + hidden, *v = k + hidden;
  if (prefix) {
    const long at = head * before * size;
    if (wide != keys) std::memset(packed_keys, 0, wide * size * sizeof(float));
    pack_keys(prefix->keys + at, size, before, size, 0, keys, packed_keys);
    pack_values(prefix->values + at, size, before, size, 0, keys, packed_values);
  }
  pack_keys(k, stride, length, size, before, keys, packed_keys);
  pack_values(v, stride, length, size, before, keys, packed_values);
  const float* added = how.added && length > how.free ? how.added + head * how.added_stride + how.middle : nullptr;
  const __m512 scale = _mm512_set1_ps(1.f / std::sqrt(static_cast<float>(size)));
  float sums[kRows];
  for (long row = 0; row < length; row += kRows) {
    const int rows = static_cast<int>(length - row < kRows ? length - row : kRows);
    for (int r = 0; r < rows; r++)
      for (long i = 0; i < size; i += 16) {
        const __mmask16 some = first(size - i);
        store(queries + r * size + i, _mm512_mul_ps(load(q + (row + r) * stride + i, some), scale), some);
      }
    product<Float32>(rows, queries, size, reinterpret_cast<const char*>(packed_keys), size, keys, 0, keys,
                     [&](long, int rows, long column, int wide_, const __m512* block) {
                       for (int r = 0; r < rows; r++)
                         for (int i = 0; i < wide_; i++) store(scores + r * wide + column + 16 * i, block[4 * r + i]);
                     });
    for (int r = 0; r < rows; r++) {
      if (added)
        for (long i = 0; i < length; i += 16) {
          float* score = scores + r * wide + before + i;
          const __mmask16 some = first(length - i);
          store(score, _mm512_add_ps(load(score, some), load(added - (row + r) + i, some)), some);
        }
      sums[r] = soften(scores + r * wide, keys);
    }
    product<Float32>(rows, scores, wide, reinterpret_cast<const char*>(packed_values), keys, size, 0, size,
                     [&](long, int rows, long column, int wide_, const __m512* block) {
                       for (int r = 0; r < rows; r++)
                         for (int i = 0; i < wide_; i++) {
                           const long at = column + 16 * i;
                           store(out + (row + r) * hidden + head * size + at,
                                 _mm512_mul_ps(block[4 * r + i], _mm512_set1_ps(1.f / sums[r])), first(size - at));
                         }
                     });
  }
}

template <class Number>
void attend(const Attention& how, long index, const Number* qkv, Number* out, const int64_t* starts, long rows,
            const Prefix* const* prefixes) {
  const long hidden = how.heads * how.size;
  share(rows * how.heads, [&](long i) {
    const long row = i / how.heads, from = starts[row];
    attend_head(how, qkv + from * 3 * hidden, out + from * hidden, starts[row + 1] - from, i % how.heads,
                prefixes && prefixes[row] ? &prefixes[row][index] : nullptr);
  });
}

// Numbers of w [n, k] from the first of `step` at column `at`, into four bytes.
template <class Put>
void pack_panels(long n, long k, long step, char* out, const Put& put) {
  for (long column = 0; column < n; column += kPanel)
    for (long at = 0; at < k; at += step)
      for (long j = 0; j < 16 * vectors(n, column); j++, out += 4) put(column + j, at, out);
}

}  // namespace

extern "C" {

void rootstock_use(Parallel door, uint32_t n) {
  parallel = door;
  threads = n;
}

void rootstock_pack_float32(const float* w, int64_t n, int64_t k, char* out) {
  pack_panels(n, k, 1, out, [&](long row, long at, char* to) {
    const float number = row < n ? w[row * k + at] : 0;
    std::memcpy(to, &number, 4);
  });
}

// k is a multiple of 2.
void rootstock_pack_bfloat16(const bfloat16* w, int64_t n, int64_t k, char* out) {
  pack_panels(n, k, 2, out, [&](long row, long at, char* to) {
    if (row < n)
      std::memcpy(to, w + row * k + at, 4);
    else
      std::memset(to, 0, 4);
  });
}

// k is a multiple of 4.
void rootstock_pack_int8(const int8_t* w, int64_t n, int64_t k, char* out) {
  pack_panels(n, k, 4, out, [&](long row, long at, char* to) {
    if (row < n)
      std::memcpy(to, w + row * k + at, 4);
    else
      std::memset(to, 0, 4);
  });
}

#define ROOTSTOCK_EXPORT(name, Number)                                                                                 \
  void rootstock_linear_##name(const Linear* w, int32_t activation, int32_t onto, const Number* x, Number* y,          \
                               int64_t tokens) {                                                                       \
    linear(*w, {static_cast<Activation>(activation), onto != 0}, x, y, tokens);                                        \
  }                                                                                                                    \
  void rootstock_close_##name(const float* gain, const float* shift, float eps, int64_t hidden, int64_t index,         \
                              const int64_t* starts, const Site* const* adapters, int64_t segments,                    \
                              const Number* stream, const Number* entered, const Number* projected, Number* sum,       \
                              Number* out) {                                                                           \
    close({gain, shift, eps}, hidden, index, starts, adapters, segments, stream, entered, projected, sum, out);        \
  }                                                                                                                    \
  void rootstock_low_rank_##name(int64_t index, const int64_t* starts, const LowRank* const* adapters,                 \
                                 int64_t segments, const Number* x, int64_t k, Number* y, int64_t n) {                 \
    low_rank(index, starts, adapters, segments, x, k, y, n);                                                           \
  }                                                                                                                    \
  void rootstock_attend_##name(const Attention* how, int64_t index, const Number* qkv, Number* out,                    \
                               const int64_t* starts, int64_t rows, const Prefix* const* prefixes) {                   \
    attend(*how, index, qkv, out, starts, rows, prefixes);                                                             \
  }

ROOTSTOCK_EXPORT(float32, float)
ROOTSTOCK_EXPORT(bfloat16, bfloat16)
}
