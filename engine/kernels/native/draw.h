// Tokens from logits, each row by its own parameters: temperature, min-p, top-k and top-p, and noise from a counter.
//
// The rules and the noise are those of engine/sampling.py: the largest of logit / temperature + Gumbel noise, which is
// a function of (seed, output position, token) alone; ties at a border stay in. Gumbel 1954; Salmon et al. 2011, SC11
// (Philox 4x32, ten rounds). A row is done from its first token to its last by one thread, so its token depends on
// nothing beside it. Borders are found without a sort: numbers are counted by their upper bits, and only those that
// share the border's are put in order.

#pragma once

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "numbers.h"
#include "pointwise.h"

namespace ostinato {

// How each row is drawn from; all are [rows].
struct Chances {
    const float *temperature, *top_p, *min_p;
    const int64_t *top_k, *seed, *index;
};

constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Numbers' upper bits: sign, exponent and two more.
constexpr int BINS = 1 << 11;

// The natural logarithm of what is above 0 and finite, within 2 units in the last place. Cephes' polynomial.
inline Vector logarithm(Vector x) {
    const Vector part = _mm512_getmant_ps(x, _MM_MANT_NORM_p75_1p5, _MM_MANT_SIGN_src);
    const Vector power = _mm512_getexp_ps(_mm512_div_ps(x, part));
    const Vector rest = _mm512_sub_ps(part, _mm512_set1_ps(1.0f)), square = _mm512_mul_ps(rest, rest);
    Vector sum = _mm512_set1_ps(7.0376836292e-2f);
    for (float next : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f, -1.6668057665e-1f,
                       2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(next));
    sum = _mm512_mul_ps(_mm512_mul_ps(sum, rest), square);
    sum = _mm512_fmadd_ps(power, _mm512_set1_ps(-2.12194440e-4f), sum);
    sum = _mm512_fnmadd_ps(square, _mm512_set1_ps(0.5f), sum);
    return _mm512_fmadd_ps(power, _mm512_set1_ps(0.693359375f), _mm512_add_ps(rest, sum));
}

// The upper and lower halves of a * b, in each lane.
inline void wide_product(__m512i a, uint32_t b, __m512i& upper, __m512i& lower) {
    const __m512i factor = _mm512_set1_epi32(static_cast<int>(b));
    const __m512i even = _mm512_mul_epu32(a, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), factor);
    lower = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_slli_epi64(odd, 32));
    upper = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64(even, 32), odd);
}

// Four words for each of sixteen counters (quad, index, 0, 0) under a seed.
inline void philox(__m512i quads, uint32_t index, uint64_t seed, __m512i (&words)[4]) {
    __m512i c0 = quads, c1 = _mm512_set1_epi32(static_cast<int>(index)), c2 = _mm512_setzero_si512(), c3 = c2;
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        __m512i upper0, lower0, upper2, lower2;
        wide_product(c0, 0xD2511F53u, upper0, lower0);
        wide_product(c2, 0xCD9E8D57u, upper2, lower2);
        c0 = _mm512_xor_si512(_mm512_xor_si512(upper2, c1), _mm512_set1_epi32(static_cast<int>(k0)));
        c1 = lower2;
        c2 = _mm512_xor_si512(_mm512_xor_si512(upper0, c3), _mm512_set1_epi32(static_cast<int>(k1)));
        c3 = lower0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// 32 random bits to a Gumbel variable, by way of an exponential that is inverted near 0, where floats are finest.
inline Vector gumbel(__m512i words) {
    const Vector one = _mm512_set1_ps(1.0f);
    Vector uniform = _mm512_add_ps(_mm512_cvtepu32_ps(words), _mm512_set1_ps(0.5f));
    uniform = _mm512_min_ps(_mm512_mul_ps(uniform, _mm512_set1_ps(0x1p-32f)), _mm512_set1_ps(1.0f - 0x1p-24f));
    // the logarithm of one minus a small number has lost what is small: what it lost is known, and made good
    const Vector left = _mm512_sub_ps(one, uniform), taken = _mm512_sub_ps(one, left);
    const __mmask16 small = _mm512_cmp_ps_mask(taken, _mm512_setzero_ps(), _CMP_EQ_OQ);
    const Vector made_good = _mm512_div_ps(uniform, _mm512_mask_blend_ps(small, taken, one));
    const Vector drawn = _mm512_mul_ps(_mm512_sub_ps(_mm512_setzero_ps(), logarithm(left)), made_good);
    return _mm512_sub_ps(_mm512_setzero_ps(), logarithm(_mm512_mask_blend_ps(small, drawn, uniform)));
}

// No Gumbel variable of 32 bits is larger.
constexpr float LARGEST_NOISE = 23.0f;

// A row's logits, scaled by its temperature as they are read.
class ScaledRow {
  public:
    ScaledRow(const float* logits, int64_t width, float temperature)
        : logits_(logits), width_(width), temperature_(_mm512_set1_ps(temperature)) {}

    int64_t width() const { return width_; }

    // Sixteen from `at` on; what is beyond the end is never drawn.
    Vector at(int64_t at) const {
        const int64_t room = width_ - at;
        if (room >= LANES) return _mm512_div_ps(_mm512_loadu_ps(logits_ + at), temperature_);
        const auto some = static_cast<__mmask16>(room > 0 ? (1 << room) - 1 : 0);
        const Vector never = _mm512_set1_ps(NEVER);
        return _mm512_div_ps(_mm512_mask_loadu_ps(never, some, logits_ + at), temperature_);
    }

  private:
    const float* logits_;
    int64_t width_;
    Vector temperature_;
};

// The index of the first of the largest numbers.
class Best {
  public:
    float least() const { return _mm512_reduce_max_ps(numbers_); }

    void see(Vector numbers, __m512i tokens) {
        const __mmask16 larger = _mm512_cmp_ps_mask(numbers, numbers_, _CMP_GT_OQ);
        numbers_ = _mm512_mask_blend_ps(larger, numbers_, numbers);
        tokens_ = _mm512_mask_blend_epi32(larger, tokens_, tokens);
    }

    int64_t token() const {
        const __mmask16 best = _mm512_cmp_ps_mask(numbers_, _mm512_set1_ps(least()), _CMP_EQ_OQ);
        const int32_t first = _mm512_mask_reduce_min_epi32(best, tokens_);
        return first == std::numeric_limits<int32_t>::max() ? 0 : first;  // no number at all: there is no best one
    }

  private:
    Vector numbers_ = _mm512_set1_ps(NEVER);
    __m512i tokens_ = _mm512_set1_epi32(std::numeric_limits<int32_t>::max());
};

inline __m512i sixteen_from(int64_t first) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int>(first)));
}

inline int64_t largest(const float* logits, int64_t width) {
    const ScaledRow row(logits, width, 1.0f);
    Best best[2];  // so that one need not wait for the other
    for (int64_t i = 0; i < width; i += 2 * LANES) {
        best[0].see(row.at(i), sixteen_from(i));
        best[1].see(row.at(i + LANES), sixteen_from(i + LANES));
    }
    const float first = best[0].least(), second = best[1].least();
    if (first != second) return best[first < second].token();
    return std::min(best[0].token(), best[1].token());
}

// The bins of sixteen numbers, which count up as they do.
inline __m512i bins(Vector x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i flip = _mm512_or_si512(_mm512_srai_epi32(bits, 31), _mm512_set1_epi32(INT32_MIN));
    return _mm512_srli_epi32(_mm512_xor_si512(bits, flip), 21);
}

// Numbers of a row that are in a bin and at least `least`, the largest first.
inline std::vector<float> in_bin(const ScaledRow& row, int bin, float least) {
    std::vector<float> found;
    float some[LANES];
    for (int64_t i = 0; i < row.width(); i += LANES) {
        const Vector x = row.at(i);
        const __mmask16 here = _mm512_cmpeq_epi32_mask(bins(x), _mm512_set1_epi32(bin)) &
                               _mm512_cmp_ps_mask(x, _mm512_set1_ps(least), _CMP_GE_OQ);
        if (!here) continue;
        _mm512_mask_compressstoreu_ps(some, here, x);
        found.insert(found.end(), some, some + __builtin_popcount(here));
    }
    std::sort(found.begin(), found.end(), std::greater<>());
    return found;
}

// The k-th largest number.
inline float least_of_best(const ScaledRow& row, int64_t k) {
    std::vector<int32_t> counts(BINS);
    alignas(64) int32_t places[LANES];
    for (int64_t i = 0; i < row.width(); i += LANES) {
        _mm512_store_si512(places, bins(row.at(i)));
        for (int lane = 0; lane < std::min<int64_t>(LANES, row.width() - i); ++lane) ++counts[places[lane]];
    }
    int bin = BINS - 1;
    for (; bin > 0 && counts[bin] < k; --bin) k -= counts[bin];
    const std::vector<float> found = in_bin(row, bin, NEVER);
    return found[std::min<int64_t>(k, found.size()) - 1];
}

// The smallest number above which there is less than a share of the mass of those from `least` on.
inline float least_of_mass(const ScaledRow& row, float most, float least, float share) {
    std::vector<double> masses(BINS);
    alignas(64) int32_t places[LANES];
    alignas(64) float parts[LANES];
    const Vector top = _mm512_set1_ps(most), border = _mm512_set1_ps(least);
    for (int64_t i = 0; i < row.width(); i += LANES) {
        const Vector x = row.at(i);
        const Vector part = _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, border, _CMP_GE_OQ),
                                                exponential(_mm512_sub_ps(x, top)));
        __mmask16 some = _mm512_cmp_ps_mask(part, _mm512_setzero_ps(), _CMP_GT_OQ);
        if (!some) continue;
        _mm512_store_si512(places, bins(x));
        _mm512_store_ps(parts, part);
        for (; some; some &= some - 1) {
            const int lane = __builtin_ctz(some);
            masses[places[lane]] += parts[lane];
        }
    }
    double whole = 0;
    for (int bin = BINS - 1; bin >= 0; --bin) whole += masses[bin];
    const double wanted = whole * share;
    double above = 0;
    int bin = BINS - 1;
    for (; bin >= 0 && !(masses[bin] > 0 && above + masses[bin] >= wanted); --bin) above += masses[bin];
    if (bin < 0) return least;  // rounding has kept all of them
    float border_at = most;
    for (float x : in_bin(row, bin, least)) {
        if (above >= wanted && x != border_at) break;
        border_at = x;
        above += std::exp(static_cast<double>(x) - most);
    }
    return border_at;
}

// The smallest scaled logit that stays in.
inline float least_kept(const ScaledRow& row, float top_p, float min_p, int64_t top_k) {
    const bool of_best = top_k > 0 && top_k < row.width();
    if (!(min_p > 0 || of_best || top_p < 1)) return NEVER;
    Vector tops = _mm512_set1_ps(NEVER);
    for (int64_t i = 0; i < row.width(); i += LANES) tops = _mm512_max_ps(row.at(i), tops);
    const float most = _mm512_reduce_max_ps(tops);
    if (!(most > NEVER && most < std::numeric_limits<float>::infinity())) return NEVER;  // nothing to choose from
    float least = min_p > 0 ? most + std::log(min_p) : NEVER;
    if (of_best) least = std::max(least, least_of_best(row, top_k));
    return top_p < 1 ? least_of_mass(row, most, least, top_p) : least;
}

inline int64_t drawn(const ScaledRow& row, float least, int64_t seed, int64_t index) {
    const __m512i quarter = _mm512_slli_epi32(sixteen_from(0), 2);
    const Vector border = _mm512_set1_ps(least), never = _mm512_set1_ps(NEVER);
    Best best;
    float leading = NEVER;
    for (int64_t first = 0; first < row.width(); first += 4 * LANES) {
        alignas(64) float scaled[4 * LANES];
        Vector most = never;
        for (int part = 0; part < 4; ++part) {
            Vector x = row.at(first + part * LANES);
            x = _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, border, _CMP_GE_OQ), never, x);
            _mm512_store_ps(scaled + part * LANES, x);
            most = _mm512_max_ps(x, most);
        }
        // no noise lifts these above what was found
        if (!(_mm512_reduce_max_ps(most) + LARGEST_NOISE >= leading)) continue;
        if (_mm512_reduce_max_ps(most) == NEVER) continue;
        __m512i words[4];
        philox(sixteen_from(first / 4), static_cast<uint32_t>(index), static_cast<uint64_t>(seed), words);
        for (int word = 0; word < 4; ++word) {  // four tokens share a counter
            const __m512i places = _mm512_add_epi32(quarter, _mm512_set1_epi32(word));
            const Vector x = _mm512_i32gather_ps(places, scaled, sizeof(float));
            best.see(_mm512_add_ps(x, gumbel(words[word])),
                     _mm512_add_epi32(places, _mm512_set1_epi32(static_cast<int>(first))));
        }
        leading = best.least();
    }
    return best.token();
}

// One token of a row of logits.
inline int64_t choose(const float* logits, int64_t width, const Chances& chances, int64_t row) {
    const float temperature = chances.temperature[row];
    if (!(temperature > 0)) return largest(logits, width);
    const ScaledRow scaled(logits, width, temperature);
    const float least = least_kept(scaled, chances.top_p[row], chances.min_p[row], chances.top_k[row]);
    return drawn(scaled, least, chances.seed[row], chances.index[row]);
}

// Whether all numbers of a row are finite.
template <typename T> inline bool finite(const T* x, int64_t width) {
    const __m512i infinite = _mm512_set1_epi32(0x7f800000);
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < width; i += LANES) {
        const __m512i bits = _mm512_castps_si512(load_some(x + i, width - i));
        most = _mm512_max_epi32(most, _mm512_and_si512(bits, _mm512_set1_epi32(INT32_MAX)));
    }
    return !_mm512_cmpge_epi32_mask(most, infinite);
}

}  // namespace ostinato
