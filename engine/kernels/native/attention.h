// Attention over the paged cache, block by block, without gathering it.
//
// Keys are looked at in spans of 256 that begin at multiples of 256, whoever asks: a token's numbers are the same bits
// whatever is in the batch and however its prompt was cut. Between spans the softmax is carried on as its maximum, its
// sum and what was seen so far. Milakov and Gimelshein 2018, arXiv 1805.02867; Kwon et al. 2023, arXiv 2309.06180.

#pragma once

#include <limits>
#include <vector>

#include "crew.h"
#include "numbers.h"
#include "pointwise.h"

namespace ostinato {

constexpr int SPAN = 256;
constexpr int AHEAD = 4;  // sixteens of keys that are asked for before they are read
constexpr int TILE = 6;  // query rows that look at the same keys together

struct Look {
    float scale;
    float cap;       // 0: none
    int64_t window;  // 0: everything
};

// Some rows of one request: `tokens` from the batch's row `first` on, the first of which sees `seen` keys.
struct Run {
    const int64_t* table;
    int64_t first, tokens, seen;
};

template <typename T> struct Query {
    const T* numbers;  // [tokens][stride], a head after the other
    int64_t stride;
    int64_t heads;
    T* to;             // [tokens][heads * head_dim]
};

template <typename T, int ROWS> class Tile {
    using F = Format<T>;
    static constexpr int TOGETHER = F::TOGETHER;

  public:
    Tile(const Cache& cache, const Look& look, const T* memory, const Run& run, int64_t kv_head)
        : cache_(cache), look_(look), memory_(memory), run_(run), kv_head_(kv_head) {}

    // Rows from `row` on: row r is token r / shared of the run, with query head kv_head * shared + r % shared.
    void attend(const Query<T>& query, int64_t row, float* seen_so_far) {
        const int64_t shared = query.heads / cache_.kv_heads, width = cache_.head_dim;
        int64_t from = std::numeric_limits<int64_t>::max(), until = 0;
        T* to[ROWS];
        UNROLL for (int r = 0; r < ROWS; ++r) {
            const int64_t token = (row + r) / shared, head = kv_head_ * shared + (row + r) % shared;
            queries_[r] = query.numbers + (run_.first + token) * query.stride + head * width;
            to[r] = query.to + (run_.first + token) * query.heads * width + head * width;
            until_[r] = run_.seen + token;
            from_[r] = look_.window ? std::max<int64_t>(0, until_[r] - look_.window) : 0;
            from = std::min(from, from_[r]);
            until = std::max(until, until_[r]);
            most_[r] = -std::numeric_limits<float>::infinity();
            sum_[r] = 0;
        }
        out_ = seen_so_far;
        std::memset(out_, 0, ROWS * width * sizeof(float));
        for (int64_t start = from / SPAN * SPAN; start < until; start += SPAN) span(start, from, until);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            const Vector whole = _mm512_set1_ps(1.0f / sum_[r]);
            for (int64_t i = 0; i < width; i += LANES)
                F::store(to[r] + i, _mm512_mul_ps(_mm512_loadu_ps(out_ + r * width + i), whole));
        }
    }

  private:
    const T* keys(int64_t position) const {
        const int64_t block = run_.table[position / cache_.block_size];
        return memory_ + cache_.at(block * cache_.block_size + position % cache_.block_size, kv_head_);
    }

    // Ask for a line of keys, and one of the values behind them: blocks lie anywhere, and no processor foresees the next.
    void fetch(const T* line) const {
        _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1);
        _mm_prefetch(reinterpret_cast<const char*>(line + cache_.part()), _MM_HINT_T1);
    }

    void span(int64_t start, int64_t from, int64_t until) {
        // whole sixteens that any row sees; the others are as if they were not there
        const int first = static_cast<int>(std::max<int64_t>(0, from - start) / LANES);
        const int last = static_cast<int>((std::min<int64_t>(SPAN, until - start) + LANES - 1) / LANES);
        const int known = static_cast<int>(std::min<int64_t>(SPAN / LANES + AHEAD, (until - start + LANES - 1) / LANES));
        for (int n = first; n < known; ++n) places_[n] = keys(start + n * LANES);
        for (int n = first; n < std::min(first + AHEAD, known) && run_.tokens == 1 && start <= from; ++n)
            for (int64_t i = 0; i < cache_.head_dim; i += TOGETHER) fetch(places_[n] + i * LANES);
        int n = first;
        for (; n + 2 <= last; n += 2) score<2>(n, known);
        if (n < last) score<1>(n, known);
        UNROLL for (int r = 0; r < ROWS; ++r) weigh(r, start, first, last);
        int64_t column = 0;
        const int64_t width = cache_.head_dim;
        for (; column + 4 * LANES <= width; column += 4 * LANES) gather<4>(column, first, last);
        for (; column < width; column += LANES) gather<1>(column, first, last);
    }

    // Products of queries with the keys of sixteens n and on.
    template <int SIXTEENS> void score(int n, int known) {
        Vector sums[ROWS][SIXTEENS];
        const int ahead = run_.tokens == 1 ? known - AHEAD : 0;  // of several tokens, the first has had them brought
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int s = 0; s < SIXTEENS; ++s) sums[r][s] = _mm512_setzero_ps();
        for (int64_t i = 0; i < cache_.head_dim; i += TOGETHER) {
            __m512i column[SIXTEENS];
            UNROLL for (int s = 0; s < SIXTEENS; ++s) {
                column[s] = F::lanes(places_[n + s] + i * LANES);
                if (n + s < ahead) fetch(places_[n + s + AHEAD] + i * LANES);
            }
            UNROLL for (int r = 0; r < ROWS; ++r) {
                const __m512i own = F::spread(queries_[r] + i);
                UNROLL for (int s = 0; s < SIXTEENS; ++s) sums[r][s] = F::add_product(sums[r][s], own, column[s]);
            }
        }
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int s = 0; s < SIXTEENS; ++s) _mm512_store_ps(scores_[r] + (n + s) * LANES, sums[r][s]);
    }

    // Scores of a row to weights, and what was so far to its share beside them.
    void weigh(int r, int64_t start, int first, int last) {
        const Vector nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i from = _mm512_set1_epi32(static_cast<int>(std::max<int64_t>(from_[r] - start, 0)));
        const __m512i until = _mm512_set1_epi32(static_cast<int>(std::min<int64_t>(until_[r] - start, SPAN)));
        Vector most = nothing;
        for (int n = first; n < last; ++n) {
            Vector score = _mm512_mul_ps(_mm512_load_ps(scores_[r] + n * LANES), _mm512_set1_ps(look_.scale));
            if (look_.cap != 0) {
                const Vector cap = _mm512_set1_ps(look_.cap);
                score = _mm512_mul_ps(tangent(_mm512_div_ps(score, cap)), cap);
            }
            const __m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32(n * LANES));
            const __mmask16 sees = _mm512_cmpge_epi32_mask(place, from) & _mm512_cmplt_epi32_mask(place, until);
            score = _mm512_mask_blend_ps(sees, nothing, score);
            _mm512_store_ps(scores_[r] + n * LANES, score);
            most = _mm512_max_ps(score, most);  // what is no number is left to its weight
        }
        const float before = most_[r], now = std::max(before, _mm512_reduce_max_ps(most));
        Vector sum = _mm512_setzero_ps();
        if (now == -std::numeric_limits<float>::infinity()) {
            std::memset(weights_[r] + first * LANES, 0, (last - first) * LANES * sizeof(T));
            share_[r] = 1;
            return;
        }
        for (int n = first; n < last; ++n) {
            const Vector score = _mm512_load_ps(scores_[r] + n * LANES);
            const Vector weight = F::round(exponential(_mm512_sub_ps(score, _mm512_set1_ps(now))));
            F::store(weights_[r] + n * LANES, weight);
            sum = _mm512_add_ps(sum, weight);
        }
        share_[r] = before == now ? 1.0f : std::exp(before - now);
        sum_[r] = sum_[r] * share_[r] + _mm512_reduce_add_ps(sum);
        most_[r] = now;
    }

    // Values by their weights, for VECTORS * 16 of a head's numbers.
    template <int VECTORS> void gather(int64_t column, int first, int last) {
        Vector sums[ROWS][VECTORS];
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] = _mm512_setzero_ps();
        const int64_t width = cache_.head_dim;
        for (int n = first; n < last; ++n) {
            const T* values = places_[n] + cache_.part() + column * TOGETHER;
            for (int token = 0; token < LANES; token += TOGETHER) {
                __m512i held[VECTORS];
                UNROLL for (int v = 0; v < VECTORS; ++v)
                    held[v] = F::lanes(values + token * width + v * LANES * TOGETHER);
                UNROLL for (int r = 0; r < ROWS; ++r) {
                    const __m512i weight = F::spread(weights_[r] + n * LANES + token);
                    UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] = F::add_product(sums[r][v], weight, held[v]);
                }
            }
        }
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int v = 0; v < VECTORS; ++v) {
                float* here = out_ + r * width + column + v * LANES;
                _mm512_storeu_ps(here, _mm512_fmadd_ps(_mm512_loadu_ps(here), _mm512_set1_ps(share_[r]), sums[r][v]));
            }
    }

    const Cache& cache_;
    const Look& look_;
    const T* memory_;
    const Run& run_;
    const int64_t kv_head_;
    const T* queries_[ROWS];
    int64_t from_[ROWS], until_[ROWS];
    float most_[ROWS], sum_[ROWS], share_[ROWS];
    float* out_;
    const T* places_[SPAN / LANES + AHEAD];
    alignas(64) float scores_[ROWS][SPAN];
    alignas(64) T weights_[ROWS][SPAN];
};

// A piece of attention's work: rows of one run that share a key head.
struct Piece {
    Run run;
    int64_t kv_head, row;
    int rows;
};

// Part requests' tokens into pieces: tables [requests][widest], counts and lengths [requests].
inline std::vector<Piece> pieces(const Cache& cache, int64_t heads, int64_t requests, const int64_t* tables,
                                 int64_t widest, const int64_t* counts, const int64_t* lengths) {
    std::vector<Piece> found;
    const int64_t shared = heads / cache.kv_heads;
    int64_t first = 0;
    for (int64_t i = 0; i < requests; ++i) {
        const Run run{tables + i * widest, first, counts[i], lengths[i] - counts[i] + 1};
        for (int64_t head = 0; head < cache.kv_heads; ++head)
            for (int64_t row = 0; row < counts[i] * shared; row += TILE)
                found.push_back({run, head, row, static_cast<int>(std::min<int64_t>(TILE, counts[i] * shared - row))});
        first += counts[i];
    }
    return found;
}

template <typename T>
void attend(Crew& crew, const Cache& cache, const Look& look, const T* memory, const std::vector<Piece>& pieces,
            const Query<T>& query) {
    crew.share(static_cast<int>(pieces.size()), [&](int at) {
        const Piece& piece = pieces[at];
        thread_local std::vector<float> out;
        out.resize(TILE * cache.head_dim);
#define OSTINATO_TILE(n)                                                                                               \
    case n:                                                                                                            \
        Tile<T, n>(cache, look, memory, piece.run, piece.kv_head).attend(query, piece.row, out.data());                \
        break;
        switch (piece.rows) {
            OSTINATO_TILE(1)
            OSTINATO_TILE(2)
            OSTINATO_TILE(3)
            OSTINATO_TILE(4)
            OSTINATO_TILE(5)
            OSTINATO_TILE(6)
        }
#undef OSTINATO_TILE
    });
}

}  // namespace ostinato
