// Matrix products whose operands are rounded to bfloat16 and whose sums are float32, as in mixed
// precision training (Micikevicius et al., 2018; Kalamkar et al., 2019): more of them a second on an
// x86-64 with AVX512-BF16. One thread; engine.cpp, which follows in the same file, shares them.
//
// Panels and loops are those of Goto and van de Geijn, 2008: operands are packed so that the inner
// loop reads both of them in order, here by pairs of k, which one instruction multiplies and adds.

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace bfloat16 {

#if defined(__x86_64__) && __GNUC__ >= 11
}  // the intrinsics are not for a namespace
#include <immintrin.h>
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")
namespace bfloat16 {

constexpr int ROWS = 12, COLUMNS = 32;  // of a tile: 24 of 32 registers are its sums
constexpr int PAIRS = 192;  // of k in a chunk: a panel of B then has 24 KB, and stays in L1

// One operand: element (i, k) is at data[i * of_i + k * of_k], and one of the two strides is 1.
struct Operand {
  const float* data;
  long of_i, of_k;
};

inline __m512i rounded(__m512 x) {
  return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x));
}

// Sixteen rows of sixteen numbers, transposed.
inline void transpose(__m512i (&x)[16]) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int j = 0; j < 2; ++j) {
      x[i + 2 * j] = _mm512_unpacklo_epi64(y[i + j], y[i + j + 2]);
      x[i + 2 * j + 1] = _mm512_unpackhi_epi64(y[i + j], y[i + j + 2]);
    }
  for (int i = 0; i < 16; i += 8)  // quarters of 128 bits: their columns are now numbers i % 4
    for (int j = 0; j < 4; ++j) {
      y[i + j] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0x88);
      y[i + j + 4] = _mm512_shuffle_i32x4(x[i + j], x[i + j + 4], 0xdd);
    }
  for (int j = 0; j < 8; ++j) {
    x[j] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0x88);
    x[j + 8] = _mm512_shuffle_i32x4(y[j], y[j + 8], 0xdd);
  }
}

// The first `count` of sixteen lanes.
inline __mmask16 lanes(int count) {
  return count >= 16 ? 0xffff : count > 0 ? (1u << count) - 1 : 0;
}

// Writes panels of `width` rows i, from k on: for each pair of k, a pair of numbers for each i.
void pack(Operand x, int count, int k, int length, int width, uint32_t* panels) {
  int pairs = (length + 1) / 2;
  for (int first = 0; first < count; first += width, panels += long(pairs) * width) {
    int rows = std::min(width, count - first);
    const float* from = x.data + first * x.of_i + k * x.of_k;
    if (rows < width) std::fill_n(panels, long(pairs) * width, 0u);
    for (int i = 0; i < rows; i += 16) {
      __mmask16 mask = lanes(rows - i);
      uint32_t* to = panels + i;
      if (x.of_k == 1) {
        for (int pair = 0; pair < pairs; pair += 16) {
          int left = length - 2 * pair;
          __mmask16 low = lanes(left), high = lanes(left - 16);
          __m512i numbers[16];
          for (int r = 0; r < 16; ++r) {
            const float* row = from + std::min(i + r, rows - 1) * x.of_i + 2 * pair;
            numbers[r] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, row + 16),
                                                      _mm512_maskz_loadu_ps(low, row));
          }
          transpose(numbers);
          int here = std::min(16, pairs - pair);
          for (int p = 0; p < here; ++p)
            _mm512_mask_storeu_epi32(to + long(pair + p) * width, mask, numbers[p]);
        }
      } else {
        for (int pair = 0; pair < pairs; ++pair) {
          const float* even = from + 2 * pair * x.of_k + i;
          __m512i numbers = rounded(_mm512_maskz_loadu_ps(mask, even));
          if (2 * pair + 1 < length) {
            __m512i odd = rounded(_mm512_maskz_loadu_ps(mask, even + x.of_k));
            numbers = _mm512_or_si512(numbers, _mm512_slli_epi32(odd, 16));
          }
          _mm512_mask_storeu_epi32(to + long(pair) * width, mask, numbers);
        }
      }
    }
  }
}

// c = beta c + alpha a b for one tile; a and b are panels.
void tile(int pairs, const uint32_t* a, const uint32_t* b, int rows, int columns, float alpha,
          float beta, float* c, long ldc) {
  __m512 sums[ROWS][2];
#pragma GCC unroll 12
  for (int i = 0; i < ROWS; ++i) sums[i][0] = sums[i][1] = _mm512_setzero_ps();
  for (int pair = 0; pair < pairs; ++pair, a += ROWS, b += COLUMNS) {
    __m512bh left = (__m512bh)_mm512_load_si512(b), right = (__m512bh)_mm512_load_si512(b + 16);
#pragma GCC unroll 12
    for (int i = 0; i < ROWS; ++i) {
      __m512bh both = (__m512bh)_mm512_set1_epi32(int(a[i]));
      sums[i][0] = _mm512_dpbf16_ps(sums[i][0], both, left);
      sums[i][1] = _mm512_dpbf16_ps(sums[i][1], both, right);
    }
  }
  __mmask16 masks[2] = {lanes(columns), lanes(columns - 16)};
  __m512 scale = _mm512_set1_ps(alpha), old = _mm512_set1_ps(beta);
#pragma GCC unroll 12
  for (int i = 0; i < ROWS; ++i) {
    if (i >= rows) break;
    for (int half = 0; half < 2; ++half) {
      float* at = c + i * ldc + 16 * half;
      __m512 result = _mm512_mul_ps(scale, sums[i][half]);
      if (beta != 0)
        result = _mm512_fmadd_ps(old, _mm512_maskz_loadu_ps(masks[half], at), result);
      _mm512_mask_storeu_ps(at, masks[half], result);
    }
  }
}

// Memory of a thread's own for panels, which grows and is kept.
uint32_t* panels(int which, size_t count) {
  static thread_local uint32_t* memory[2];
  static thread_local size_t sizes[2];
  if (sizes[which] < count) {
    std::free(memory[which]);
    sizes[which] = count;
    memory[which] = static_cast<uint32_t*>(std::aligned_alloc(64, (count * 4 + 63) / 64 * 64));
  }
  return memory[which];
}

void multiply(Operand a, Operand b, int m, int n, int k, float alpha, float beta, float* c,
              long ldc) {
  long down = (m + ROWS - 1) / ROWS, across = (n + COLUMNS - 1) / COLUMNS;
  uint32_t* of_a = panels(0, down * ROWS * PAIRS);
  uint32_t* of_b = panels(1, across * COLUMNS * PAIRS);
  for (int start = 0; start < k; start += 2 * PAIRS) {
    int length = std::min(2 * PAIRS, k - start), pairs = (length + 1) / 2;
    pack(a, m, start, length, ROWS, of_a);
    pack(b, n, start, length, COLUMNS, of_b);
    for (long j = 0; j < across; ++j)
      for (long i = 0; i < down; ++i)
        tile(pairs, of_a + i * pairs * ROWS, of_b + j * pairs * COLUMNS, int(m - i * ROWS),
             int(n - j * COLUMNS), alpha, start ? 1 : beta, c + i * ROWS * ldc + j * COLUMNS, ldc);
  }
}

bool here() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace bfloat16
#pragma GCC pop_options
namespace bfloat16 {
#else
struct Operand {
  const float* data;
  long of_i, of_k;
};
void multiply(Operand, Operand, int, int, int, float, float, float*, long) {}
bool here() { return false; }
#endif

}  // namespace bfloat16
