// Products with weights, in an order of sums that does not depend on how many rows there are.
//
// Every output is the sum over its inputs from the first to the last in one register, so a row's numbers are the same
// bits alone and among a thousand. Weights are packed in panels of 32 outputs, [panel][inputs taken together][output],
// and are read from beginning to end, once for a dozen rows.

#pragma once

#include <algorithm>

#include "crew.h"
#include "numbers.h"

namespace ostinato {

constexpr int PANEL = 2 * LANES;

enum class Gate { none, silu, gelu };

template <typename T> struct Product {
    const T* weight;    // packed
    const float* bias;  // [out], or null
    int64_t in, out;    // `in` is a multiple of what is taken together

    int64_t panels() const { return (out + PANEL - 1) / PANEL; }
    int64_t packed() const { return panels() * PANEL * in; }
};

// Pack rows [out, in]; what a last panel lacks is zero. With a gate the first half of the rows is what gates: panels
// take turns, one that gates before the one that it gates.
template <typename T> void pack(const T* weight, int64_t out, int64_t in, bool gated, T* packed) {
    constexpr int TOGETHER = Format<T>::TOGETHER;
    constexpr int64_t NEAR = 16;  // steps of a row that are read while its cache lines are there
    struct Lane {
        T numbers[TOGETHER];
    };
    const int64_t part = gated ? out / 2 : out, parts = gated ? 2 : 1, steps = in / TOGETHER;
    const int64_t panels = (part + PANEL - 1) / PANEL;
    for (int64_t panel = 0; panel < panels * parts; ++panel) {
        const int64_t first = (panel / parts) * PANEL, columns = std::min<int64_t>(PANEL, part - first);
        auto* to = reinterpret_cast<Lane*>(packed + panel * PANEL * in);
        const T* from = weight + ((panel % parts) * part + first) * in;
        if (columns < PANEL) std::memset(to, 0, PANEL * in * sizeof(T));
        for (int64_t begin = 0; begin < steps; begin += NEAR)
            for (int64_t column = 0; column < columns; ++column)
                for (int64_t step = begin; step < std::min(steps, begin + NEAR); ++step)
                    std::memcpy(to + step * PANEL + column, from + column * in + step * TOGETHER, sizeof(Lane));
    }
}

// Multiply ROWS rows of x [., in] with PANELS panels that follow one another.
template <typename T, int ROWS, int PANELS>
inline void multiply(const T* x, int64_t stride, const T* panel, int64_t in, Vector (&sums)[ROWS][PANELS][2]) {
    using F = Format<T>;
    UNROLL for (int r = 0; r < ROWS; ++r)
        UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p][0] = sums[r][p][1] = _mm512_setzero_ps();
    const int64_t steps = in / F::TOGETHER;
    for (int64_t k = 0; k < steps; ++k) {
        __m512i columns[PANELS][2];
        UNROLL for (int p = 0; p < PANELS; ++p) {
            const T* here = panel + (p * steps + k) * PANEL * F::TOGETHER;
            if constexpr (ROWS <= 4) {
                _mm_prefetch(reinterpret_cast<const char*>(here) + 2048, _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(here) + 2112, _MM_HINT_T0);
            }
            columns[p][0] = F::lanes(here);
            columns[p][1] = F::lanes(here + LANES * F::TOGETHER);
        }
        UNROLL for (int r = 0; r < ROWS; ++r) {
            const __m512i row = F::spread(x + r * stride + k * F::TOGETHER);
            UNROLL for (int p = 0; p < PANELS; ++p) {
                sums[r][p][0] = F::add_product(sums[r][p][0], row, columns[p][0]);
                sums[r][p][1] = F::add_product(sums[r][p][1], row, columns[p][1]);
            }
        }
    }
}

template <typename U> inline void store(U* to, Vector x, int64_t room) {
    if (room >= LANES) Format<U>::store(to, x);
    else if (room > 0) Format<U>::store_some(to, x, static_cast<int>(room));
}

// U is T, or float for what is to be told exactly.
template <typename T, typename U, int ROWS, int PANELS>
inline void multiply_and_store(const Product<T>& product, const T* x, int64_t stride, int64_t panel, U* to) {
    Vector sums[ROWS][PANELS][2];
    multiply<T, ROWS, PANELS>(x, stride, product.weight + panel * PANEL * product.in, product.in, sums);
    UNROLL for (int p = 0; p < PANELS; ++p)
        UNROLL for (int half = 0; half < 2; ++half) {
            const int64_t column = (panel + p) * PANEL + half * LANES;
            const int64_t room = product.out - column;
            Vector bias = _mm512_setzero_ps();
            if (product.bias && room > 0)
                bias = _mm512_maskz_loadu_ps(room >= LANES ? 0xffff : (1 << room) - 1, product.bias + column);
            UNROLL for (int r = 0; r < ROWS; ++r)
                store(to + r * product.out + column, _mm512_add_ps(sums[r][p][half], bias), room);
        }
}

// The panel pair's gated outputs: to [., out / 2].
template <typename T, int ROWS>
inline void multiply_and_gate(const Product<T>& product, const T* x, int64_t stride, int64_t pair, Gate gate, T* to) {
    using F = Format<T>;
    Vector sums[ROWS][2][2];
    multiply<T, ROWS, 2>(x, stride, product.weight + 2 * pair * PANEL * product.in, product.in, sums);
    const int64_t wide = product.out / 2;
    UNROLL for (int half = 0; half < 2; ++half) {
        const int64_t column = pair * PANEL + half * LANES;
        const int64_t room = wide - column;
        if (room <= 0) continue;
        Vector biases[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
        if (product.bias)
            UNROLL for (int p = 0; p < 2; ++p)
                biases[p] = _mm512_maskz_loadu_ps(room >= LANES ? 0xffff : (1 << room) - 1,
                                                  product.bias + p * wide + column);
        UNROLL for (int r = 0; r < ROWS; ++r) {
            const Vector opened = F::round(_mm512_add_ps(sums[r][0][half], biases[0]));
            const Vector held = F::round(_mm512_add_ps(sums[r][1][half], biases[1]));
            const Vector open = F::round(gate == Gate::silu ? silu(opened) : gelu(opened));
            store(to + r * wide + column, _mm512_mul_ps(open, held), room);
        }
    }
}

// Call `work.template operator()<n>(row)` over all rows, as many at once as there may be.
template <int MOST, typename Work> inline void by_rows(int64_t rows, const Work& work) {
    for (int64_t row = 0; row < rows;) {
        const int64_t left = rows - row;
#define OSTINATO_ROWS(n)                                                                                               \
    if constexpr (n <= MOST)                                                                                           \
        if (left >= n) {                                                                                               \
            work.template operator()<n>(row);                                                                          \
            row += n;                                                                                                  \
            continue;                                                                                                  \
        }
        OSTINATO_ROWS(12)
        OSTINATO_ROWS(8)
        OSTINATO_ROWS(6)
        OSTINATO_ROWS(5)
        OSTINATO_ROWS(4)
        OSTINATO_ROWS(3)
        OSTINATO_ROWS(2)
        OSTINATO_ROWS(1)
#undef OSTINATO_ROWS
    }
}

// A piece of a product is large enough to be worth its taking: some 32 KiB of weights.
template <typename T> inline int64_t panels_together(const Product<T>& product) {
    return std::max<int64_t>(1, (32 << 10) / (PANEL * product.in * static_cast<int64_t>(sizeof(T))));
}

// x [rows, in], rows `stride` apart, times the weight, to [rows, out].
template <typename T, typename U>
void run(Crew& crew, const Product<T>& product, const T* x, int64_t stride, int64_t rows, U* to) {
    const int64_t panels = product.panels();
    // two panels at once for few rows, so that there are sums enough to be under way
    const bool pairs = rows <= 6;
    const int64_t together = panels_together(product) * (pairs ? 2 : 1);
    crew.share(static_cast<int>((panels + together - 1) / together), [&](int piece) {
        int64_t panel = piece * together;
        const int64_t end = std::min(panels, panel + together);
        for (; pairs && panel + 2 <= end; panel += 2)
            by_rows<6>(rows, [&]<int N>(int64_t row) {
                multiply_and_store<T, U, N, 2>(product, x + row * stride, stride, panel, to + row * product.out);
            });
        for (; panel < end; ++panel)
            by_rows<12>(rows, [&]<int N>(int64_t row) {
                multiply_and_store<T, U, N, 1>(product, x + row * stride, stride, panel, to + row * product.out);
            });
    });
}

// The same with a gate over a product that was packed for one, to [rows, out / 2].
template <typename T>
void run_gated(Crew& crew, const Product<T>& product, const T* x, int64_t stride, int64_t rows, Gate gate, T* to) {
    const int64_t wide = product.out / 2, pairs = (wide + PANEL - 1) / PANEL;
    const int64_t together = panels_together(product);
    crew.share(static_cast<int>((pairs + together - 1) / together), [&](int piece) {
        const int64_t end = std::min(pairs, (piece + 1) * together);
        for (int64_t pair = piece * together; pair < end; ++pair)
            by_rows<6>(rows, [&]<int N>(int64_t row) {
                multiply_and_gate<T, N>(product, x + row * stride, stride, pair, gate, to + row * wide);
            });
    });
}

}  // namespace ostinato
