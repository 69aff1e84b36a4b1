// Attention over the paged cache, block by block, without gathering it.
//
// Keys are looked at in spans of 256 that begin at multiples of 256, whoever asks: a token's numbers are the same bits
// whatever is in the batch and however its prompt was cut. Between spans the softmax is carried on as its maximum, its
// sum and what was seen so far; so requests that begin with the same blocks look at these together, and each at what it
// has alone. Milakov and Gimelshein 2018, arXiv 1805.02867; Kwon et al. 2023, arXiv 2309.06180.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "crew.h"
#include "numbers.h"
#include "plan.h"
#include "pointwise.h"

namespace ostinato {

constexpr int64_t NEAR = 64 << 10;  // bytes of keys and values that are asked for before they are read

struct Look {
    float scale;
    float cap;       // 0: none
    int64_t window;  // 0: everything
};

template <typename T> struct Query {
    const T* numbers;  // [tokens][stride], a head after the other
    int64_t stride;
    int64_t heads;
    T* to;             // [tokens][heads * head_dim]
};

// The keys [from, until) that a row of queries sees, and where it puts what it has seen.
template <typename T> struct Sight {
    T* to;
    int64_t from, until;
};

// Rows that look at keys, and what they have seen of them so far.
template <typename T> struct Viewers {
    static constexpr int TOGETHER = Format<T>::TOGETHER;
    int count;
    Sight<T> sights[LARGEST];
    float most[LARGEST], sum[LARGEST];
    std::vector<T> queries;   // [numbers taken together][count], as products take them
    std::vector<float> seen;  // [count][head_dim]

    void begin(int rows, int64_t width) {
        count = rows;
        queries.resize(rows * width);
        seen.assign(rows * width, 0.0f);
        std::fill_n(most, rows, -std::numeric_limits<float>::infinity());
        std::fill_n(sum, rows, 0.0f);
    }
    void set(int row, const T* query, int64_t width, const Sight<T>& sight) {
        sights[row] = sight;
        T* to = queries.data() + row * TOGETHER;
        for (int64_t i = 0, step = count; i < width; i += TOGETHER)
            std::memcpy(to + i * step, query + i, TOGETHER * sizeof(T));
    }
};

template <typename T, int ROWS> class Tile {
    using F = Format<T>;
    static constexpr int TOGETHER = F::TOGETHER;
    static constexpr int WIDE = ROWS <= 3 ? 4 : ROWS <= 6 ? 2 : 1;  // so many sums are under way that none is waited for

  public:
    // Of rows from `first` on; `places` are those of the sixteens from the first on.
    Tile(const Cache& cache, const Look& look, const T* memory, const int64_t* places, Viewers<T>& rows, int first)
        : cache_(cache), look_(look), memory_(memory), places_(places), sights_(rows.sights + first),
          queries_(rows.queries.data() + first * TOGETHER), stride_(rows.count * TOGETHER),
          seen_(rows.seen.data() + first * cache.head_dim), most_(rows.most + first), sum_(rows.sum + first) {}

    // Look at the keys [from, until), and ask for those `ahead` sixteens behind; 0: they are near.
    void over(int64_t from, int64_t until, int64_t ahead) {
        ahead_ = ahead;
        for (int64_t start = from / SPAN * SPAN; start < until; start += SPAN) span(start, from, until);
    }

  private:
    const T* keys(int64_t sixteen) const { return memory_ + here_[sixteen]; }

    // Ask for a line that is wanted next, and for one that is wanted much later.
    static void near(const T* line) { _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T0); }
    static void far(const T* line) { _mm_prefetch(reinterpret_cast<const char*>(line), _MM_HINT_T1); }

    void span(int64_t start, int64_t from, int64_t until) {
        // whole sixteens that any row sees; the others are as if they were not there
        const int first = static_cast<int>(std::max<int64_t>(0, from - start) / LANES);
        const int last = static_cast<int>((std::min<int64_t>(SPAN, until - start) + LANES - 1) / LANES);
        here_ = places_ + start / LANES;
        int n = first;
        for (; n + WIDE <= last; n += WIDE) score<WIDE>(n);
        for (; n < last; ++n) score<1>(n);
        UNROLL for (int r = 0; r < ROWS; ++r) weigh(r, start, first, last);
        constexpr int VECTORS = ROWS <= 6 ? 4 : 2;
        int64_t column = 0;
        const int64_t width = cache_.head_dim;
        for (; column + VECTORS * LANES <= width; column += VECTORS * LANES) gather<VECTORS>(column, first, last);
        for (; column < width; column += LANES) gather<1>(column, first, last);
    }

    // Products of queries with the keys of sixteens n and on.
    template <int SIXTEENS> void score(int n) {
        Vector sums[ROWS][SIXTEENS];
        const T *own[SIXTEENS], *next[SIXTEENS], *later[SIXTEENS];
        UNROLL for (int s = 0; s < SIXTEENS; ++s) {
            own[s] = keys(n + s);
            next[s] = keys(n + s + SIXTEENS);
            later[s] = keys(n + s + ahead_);
        }
        const T* query = queries_;
        UNROLL for (int r = 0; r < ROWS; ++r) UNROLL for (int s = 0; s < SIXTEENS; ++s) sums[r][s] = _mm512_setzero_ps();
        for (int64_t i = 0; i < cache_.head_dim; i += TOGETHER, query += stride_) {
            __m512i column[SIXTEENS];
            UNROLL for (int s = 0; s < SIXTEENS; ++s) {
                column[s] = F::lanes(own[s] + i * LANES);
                near(next[s] + i * LANES);
                if (ahead_) far(later[s] + i * LANES);
            }
            UNROLL for (int r = 0; r < ROWS; ++r) {
                const __m512i row = F::spread(query + r * TOGETHER);
                UNROLL for (int s = 0; s < SIXTEENS; ++s) sums[r][s] = F::add_product(sums[r][s], row, column[s]);
            }
        }
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int s = 0; s < SIXTEENS; ++s) _mm512_store_ps(scores_[r] + (n + s) * LANES, sums[r][s]);
    }

    // Scores of a row to weights, and what was so far to its share beside them.
    void weigh(int r, int64_t start, int first, int last) {
        const Vector nothing = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
        const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const int from = static_cast<int>(std::clamp<int64_t>(sights_[r].from - start, 0, SPAN));
        const int until = static_cast<int>(std::clamp<int64_t>(sights_[r].until - start, 0, SPAN));
        Vector most = nothing;
        for (int n = first; n < last; ++n) {
            Vector score = _mm512_mul_ps(_mm512_load_ps(scores_[r] + n * LANES), _mm512_set1_ps(look_.scale));
            if (look_.cap != 0) {
                const Vector cap = _mm512_set1_ps(look_.cap);
                score = _mm512_mul_ps(tangent(_mm512_div_ps(score, cap)), cap);
            }
            if (n * LANES < from || (n + 1) * LANES > until) {
                const __m512i place = _mm512_add_epi32(lane, _mm512_set1_epi32(n * LANES));
                const __mmask16 sees = _mm512_cmpge_epi32_mask(place, _mm512_set1_epi32(from)) &
                                       _mm512_cmplt_epi32_mask(place, _mm512_set1_epi32(until));
                score = _mm512_mask_blend_ps(sees, nothing, score);
            }
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
            const T* values = keys(n) + cache_.part() + column * TOGETHER;
            const T* next = keys(n + 1) + cache_.part() + column * TOGETHER;
            const T* later = keys(n + ahead_) + cache_.part() + column * TOGETHER;
            for (int token = 0; token < LANES; token += TOGETHER) {
                __m512i held[VECTORS];
                UNROLL for (int v = 0; v < VECTORS; ++v) {
                    const int64_t line = token * width + v * LANES * TOGETHER;
                    held[v] = F::lanes(values + line);
                    near(next + line);
                    if (ahead_) far(later + line);
                }
                UNROLL for (int r = 0; r < ROWS; ++r) {
                    const __m512i weight = F::spread(weights_[r] + n * LANES + token);
                    UNROLL for (int v = 0; v < VECTORS; ++v) sums[r][v] = F::add_product(sums[r][v], weight, held[v]);
                }
            }
        }
        UNROLL for (int r = 0; r < ROWS; ++r)
            UNROLL for (int v = 0; v < VECTORS; ++v) {
                float* here = seen_ + r * width + column + v * LANES;
                _mm512_storeu_ps(here, _mm512_fmadd_ps(_mm512_loadu_ps(here), _mm512_set1_ps(share_[r]), sums[r][v]));
            }
    }

    const Cache& cache_;
    const Look& look_;
    const T* memory_;
    const int64_t *places_, *here_ = nullptr;
    const Sight<T>* sights_;
    const T* queries_;
    const int64_t stride_;
    float *seen_, *most_, *sum_;
    int64_t ahead_ = 0;
    float share_[ROWS];
    alignas(64) float scores_[ROWS][SPAN];
    alignas(64) T weights_[ROWS][SPAN];
};

// Call `work.template operator()<n>()` with a number of rows.
template <typename Work> inline void with_rows(int rows, const Work& work) {
    switch (rows) {
#define OSTINATO_TILE(n)                                                                                               \
    case n:                                                                                                            \
        work.template operator()<n>();                                                                                 \
        break;
        OSTINATO_TILE(1)
        OSTINATO_TILE(2)
        OSTINATO_TILE(3)
        OSTINATO_TILE(4)
        OSTINATO_TILE(5)
        OSTINATO_TILE(6)
        OSTINATO_TILE(7)
        OSTINATO_TILE(8)
        OSTINATO_TILE(9)
        OSTINATO_TILE(10)
        OSTINATO_TILE(11)
        OSTINATO_TILE(12)
#undef OSTINATO_TILE
    }
}

// Attention of a step in one layer.
template <typename T> class Attention {
    using F = Format<T>;

  public:
    Attention(const Cache& cache, const Look& look, const T* memory, const Plan& plan, const Query<T>& query)
        : cache_(cache), look_(look), memory_(memory), plan_(plan), query_(query),
          ahead_(std::clamp<int64_t>(NEAR / (2 * cache.part() * static_cast<int64_t>(sizeof(T))), 2, FURTHEST)) {}

    void operator()(int begin, int end) const {
        thread_local Viewers<T> own;
        Viewers<T>& rows = own;
        begin_with(plan_.pieces[begin]);
        for (int at = begin; at < end; ++at) attend(plan_.pieces[at], rows);
    }

  private:
    // Ask for what a piece begins with, where nobody has.
    void begin_with(const Piece& piece) const {
        constexpr int FIRST = 4;
        const Run& run = plan_.runs[piece.run];
        const int64_t from = look_.window ? std::max<int64_t>(0, run.seen - look_.window) / LANES : 0;
        const int64_t* own = plan_.places.data() + piece.places;
        for (int64_t n = from; n < std::min(from + FIRST, run.sixteens); ++n)
            for (int64_t i = 0; i < 2 * cache_.part(); i += LANES * F::TOGETHER)
                _mm_prefetch(reinterpret_cast<const char*>(memory_ + own[n] + i), _MM_HINT_T1);
    }

    void attend(const Piece& piece, Viewers<T>& rows) const {
        const int64_t width = cache_.head_dim, shared = query_.heads / cache_.kv_heads;
        rows.begin(piece.rows * piece.many, width);
        for (int r = 0; r < rows.count; ++r) {
            const Run& run = plan_.runs[piece.run + r / piece.rows];
            const int64_t row = piece.row + r % piece.rows, token = row / shared, until = run.seen + token;
            const int64_t head = piece.kv_head * shared + row % shared;
            rows.set(r, query_.numbers + (run.first + token) * query_.stride + head * width, width,
                     {query_.to + ((run.first + token) * query_.heads + head) * width,
                      look_.window ? std::max<int64_t>(0, until - look_.window) : 0, until});
        }
        // keys of several tokens are looked at by one tile after the other: nobody asks for them far ahead
        const int64_t ahead = plan_.runs[piece.run].tokens == 1 ? ahead_ : 0, common = piece.common;
        const int64_t* places = plan_.places.data() + piece.places;
        if (common) over(rows, 0, rows.count, places, 0, common, ahead);
        for (int i = 0, first = 0; i < piece.many; ++i, first += piece.rows) {
            over(rows, first, piece.rows, places, std::max(common, rows.sights[first].from),
                 rows.sights[first + piece.rows - 1].until, ahead);
            places += plan_.runs[piece.run + i].sixteens - common / LANES;  // the next one's begin where these end
        }
        for (int r = 0; r < rows.count; ++r) {
            const Vector whole = _mm512_set1_ps(1.0f / rows.sum[r]);
            const float* seen = rows.seen.data() + r * width;
            T* to = rows.sights[r].to;
            for (int64_t i = 0; i < width; i += LANES) F::store(to + i, _mm512_mul_ps(_mm512_loadu_ps(seen + i), whole));
        }
    }

    void over(Viewers<T>& rows, int first, int many, const int64_t* places, int64_t from, int64_t until,
              int64_t ahead) const {
        with_rows(many, [&]<int N>() {
            Tile<T, N>(cache_, look_, memory_, places, rows, first).over(from, until, ahead);
        });
    }

    const Cache& cache_;
    const Look& look_;
    const T* memory_;
    const Plan& plan_;
    const Query<T>& query_;
    const int64_t ahead_;
};

template <typename T>
void attend(Crew& crew, const Cache& cache, const Look& look, const T* memory, const Plan& plan, const Query<T>& query) {
    crew.part(static_cast<int>(plan.pieces.size()), Attention<T>(cache, look, memory, plan, query));
}

}  // namespace ostinato
