// Number formats: float; bf16, which products take in pairs and sum up in float; and 8 bits, which they take in fours
// and sum up in whole numbers, so exactly.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <immintrin.h>

namespace ostinato {

// sums stay in registers only where their loops are gone before the compiler looks
#define UNROLL _Pragma("GCC unroll 16")

using Vector = __m512;
constexpr int LANES = 16;

struct bf16 {
    uint16_t bits;
};

#ifdef __AVX512BF16__
inline __m256i narrowed(Vector x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }

inline Vector add_pairs(Vector sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}
#else
// To the nearest, to even between two; what is no number stays none.
inline __m256i narrowed(Vector x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(none, rounded, quiet), 16));
}

inline Vector upper_of(__m512i pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}
inline Vector lower_of(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }

// Processors without these products have floats as fast as theirs; the upper of each two comes first, as with those.
inline Vector add_pairs(Vector sum, __m512i a, __m512i b) {
    sum = _mm512_fmadd_ps(upper_of(a), upper_of(b), sum);
    return _mm512_fmadd_ps(lower_of(a), lower_of(b), sum);
}
#endif

// What a lane of a product takes at once, and how: weights of the format, and what stands to the left of them.
template <typename T> struct Format;

template <> struct Format<bf16> {
    using Left = bf16;
    using Sum = Vector;
    static constexpr int TOGETHER = 2;
    static Sum none() { return _mm512_setzero_ps(); }
    static Vector load(const bf16* from) {
        __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
    }
    static void store(bf16* to, Vector x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), narrowed(x)); }
    static void store_some(bf16* to, Vector x, int some) {
        _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << some) - 1), narrowed(x));
    }
    // Take TOGETHER numbers into every lane.
    static __m512i spread(const bf16* from) {
        int32_t two;
        std::memcpy(&two, from, 4);
        return _mm512_set1_epi32(two);
    }
    static __m512i lanes(const bf16* from) { return _mm512_loadu_si512(from); }
    static Vector add_product(Vector sum, __m512i a, __m512i b) { return add_pairs(sum, a, b); }
    static float widen(bf16 x) {
        uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
        float wide;
        std::memcpy(&wide, &bits, 4);
        return wide;
    }
    // Round to the nearest, to even between two.
    static bf16 narrow(float x) {
        return {static_cast<uint16_t>(_mm256_extract_epi16(narrowed(_mm512_set1_ps(x)), 0))};
    }
    static Vector round(Vector x) {
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrowed(x)), 16));
    }
};

template <> struct Format<float> {
    using Left = float;
    using Sum = Vector;
    static constexpr int TOGETHER = 1;
    static Sum none() { return _mm512_setzero_ps(); }
    static Vector load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, Vector x) { _mm512_storeu_ps(to, x); }
    static void store_some(float* to, Vector x, int some) {
        _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << some) - 1), x);
    }
    static __m512i spread(const float* from) { return _mm512_castps_si512(_mm512_set1_ps(*from)); }
    static __m512i lanes(const float* from) { return _mm512_loadu_si512(from); }
    static Vector add_product(Vector sum, __m512i a, __m512i b) {
        return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
    }
    static float widen(float x) { return x; }
    static float narrow(float x) { return x; }
    static Vector round(Vector x) { return x; }
};

// Weights from -127 to 127; to their left numbers from 1 to 255, which mean 128 less.
template <> struct Format<int8_t> {
    using Left = uint8_t;
    using Sum = __m512i;
    static constexpr int TOGETHER = 4;
    static Sum none() { return _mm512_setzero_si512(); }
    static __m512i spread(const uint8_t* from) {
        int32_t four;
        std::memcpy(&four, from, 4);
        return _mm512_set1_epi32(four);
    }
    static __m512i lanes(const int8_t* from) { return _mm512_loadu_si512(from); }
    static Sum add_product(Sum sum, __m512i left, __m512i weights) { return _mm512_dpbusd_epi32(sum, left, weights); }
};

// e to the x, within 2 units in the last place; 0 below -87, infinite above 88.7; what is no number stays none, since
// the lesser and the greater of two are the second where they cannot be told. Cephes' reduction: 2^n times a polynomial.
inline Vector exponential(Vector x) {
    const Vector low = _mm512_set1_ps(-87.3f);
    const __mmask16 counts = _mm512_cmp_ps_mask(x, low, _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(89.0f), _mm512_max_ps(low, x));
    const Vector n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504088896341f)), 0);
    Vector rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), rest);
    Vector sum = _mm512_set1_ps(1.9875691500e-4f);
    for (float next : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(next));
    sum = _mm512_fmadd_ps(_mm512_mul_ps(rest, rest), sum, _mm512_add_ps(rest, _mm512_set1_ps(1.0f)));
    return _mm512_maskz_scalef_ps(counts, sum, n);
}

// The hyperbolic tangent, through e to the 2x.
inline Vector tangent(Vector x) {
    const Vector limit = _mm512_set1_ps(10.0f);
    const Vector bounded = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), limit), _mm512_min_ps(limit, x));
    const Vector one = _mm512_set1_ps(1.0f);
    const Vector power = exponential(_mm512_add_ps(bounded, bounded));
    return _mm512_div_ps(_mm512_sub_ps(power, one), _mm512_add_ps(power, one));
}

// x / (1 + e^-x). Ramachandran et al. 2017, arXiv 1710.05941.
inline Vector silu(Vector x) {
    const Vector power = exponential(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), power));
}

// GELU by its tangent. Hendrycks and Gimpel 2016, arXiv 1606.08415.
inline Vector gelu(Vector x) {
    const Vector cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
    const Vector inner = _mm512_mul_ps(_mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x),
                                       _mm512_set1_ps(0.79788456080286536f));
    const Vector half = _mm512_mul_ps(x, _mm512_set1_ps(0.5f));
    return _mm512_fmadd_ps(half, tangent(inner), half);
}

}  // namespace ostinato
