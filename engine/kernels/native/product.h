// Products with weights, in an order of sums that does not depend on how many rows there are.
//
// Every output is the sum over its inputs from the first to the last in one register, so a row's numbers are the same
// bits alone and among a thousand. Weights are packed in panels of 32 outputs, [panel][inputs taken together][output],
// and are read from beginning to end, once for a dozen rows.

#pragma once

#include <algorithm>
#include <type_traits>
#include <vector>

#include "crew.h"
#include "numbers.h"
#include "pointwise.h"

namespace ostinato {

constexpr int PANEL = 2 * LANES;
constexpr int64_t MANY = 64;  // so many panels for each thread that it matters little who takes the last ones

enum class Gate { none, silu, gelu };

template <typename W> struct Product {
    const W* weight;                 // packed
    const float* bias;               // [out], or null
    int64_t in, out;                 // `in` is a multiple of what is taken together
    const float* scales = nullptr;   // [out], of weights in 8 bits: what one of their steps is
    const int32_t* above = nullptr;  // [out], of these: what numbers to the left that are 128 too large add

    int64_t panels() const { return (out + PANEL - 1) / PANEL; }
    int64_t bytes() const { return PANEL * in * static_cast<int64_t>(sizeof(W)); }  // of a panel
};

// A learned weight beside numbers in T: as it is, or in 8 bits.
template <typename T> struct Weights {
    Product<T> plain;
    Product<int8_t> narrow;  // if it has a weight
};

// What stands to the left of a product; `scales` [rows] where it is in 8 bits.
template <typename W> struct Rows {
    const typename Format<W>::Left* numbers;
    int64_t stride;
    const float* scales = nullptr;

    const typename Format<W>::Left* at(int64_t row) const { return numbers + row * stride; }
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

// Lines of memory that are asked for while something is computed, so that they are near when it is their turn.
struct Ahead {
    const char* from = nullptr;
    int64_t lines = 0;

    static constexpr int64_t LINE = 64;

    // What rows [row, row + many) of `rows` ask for.
    Ahead share(int64_t row, int64_t many, int64_t rows) const {
        const int64_t begin = lines * row / rows;
        return {from + begin * LINE, lines * (row + many) / rows - begin};
    }
};

// Multiply ROWS rows of x [., in] with PANELS panels that follow one another.
template <typename W, int ROWS, int PANELS>
inline void multiply(const typename Format<W>::Left* x, int64_t stride, const W* panel, int64_t in, Ahead ahead,
                     typename Format<W>::Sum (&sums)[ROWS][PANELS][2]) {
    using F = Format<W>;
    constexpr int64_t STRETCH = 8;  // steps between which memory is asked for
    UNROLL for (int r = 0; r < ROWS; ++r)
        UNROLL for (int p = 0; p < PANELS; ++p) sums[r][p][0] = sums[r][p][1] = F::none();
    const int64_t steps = in / F::TOGETHER, each = (ahead.lines * STRETCH + steps - 1) / steps;
    for (int64_t k = 0; k < steps;) {
        for (int64_t line = std::min(each, ahead.lines); line > 0; --line, --ahead.lines, ahead.from += Ahead::LINE)
            _mm_prefetch(ahead.from, _MM_HINT_T1);
        for (const int64_t until = std::min(k + STRETCH, steps); k < until; ++k) {
            __m512i columns[PANELS][2];
            UNROLL for (int p = 0; p < PANELS; ++p) {
                const W* here = panel + (p * steps + k) * PANEL * F::TOGETHER;
                if constexpr (ROWS > 1 && ROWS <= 4) {  // one row is read fastest as the processor foresees it
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
}

// Where outputs go: rows `stride` apart, from column `first` on.
template <typename U> struct Place {
    U* to;
    int64_t stride, first;

    U* at(int64_t row, int64_t column) const { return to + row * stride + column - first; }
};

template <typename U> inline void store(U* to, Vector x, int64_t room) {
    if (room >= LANES) Format<U>::store(to, x);
    else if (room > 0) Format<U>::store_some(to, x, static_cast<int>(room));
}

// Lanes of a vector from `column` on that are outputs.
inline __mmask16 within(int64_t room) { return static_cast<__mmask16>(room >= LANES ? 0xffff : (1 << room) - 1); }

// A sum as the number that it means, for outputs from `column` on; adds the bias.
template <typename W>
inline Vector told(const Product<W>& product, const Rows<W>& left, int64_t row, typename Format<W>::Sum sum,
                   int64_t column, __mmask16 lanes) {
    Vector number;
    if constexpr (std::is_same_v<W, int8_t>) {
        const __m512i exact = _mm512_sub_epi32(sum, _mm512_maskz_loadu_epi32(lanes, product.above + column));
        const Vector step = _mm512_mul_ps(_mm512_set1_ps(left.scales[row]),
                                          _mm512_maskz_loadu_ps(lanes, product.scales + column));
        number = _mm512_mul_ps(_mm512_cvtepi32_ps(exact), step);
    } else number = sum;
    const Vector bias = product.bias ? _mm512_maskz_loadu_ps(lanes, product.bias + column) : _mm512_setzero_ps();
    return _mm512_add_ps(number, bias);
}

template <typename W, typename U, int ROWS, int PANELS>
inline void multiply_and_store(const Product<W>& product, const Rows<W>& left, int64_t row, int64_t panel,
                               const Ahead& ahead, const Place<U>& to) {
    typename Format<W>::Sum sums[ROWS][PANELS][2];
    multiply<W, ROWS, PANELS>(left.at(row), left.stride, product.weight + panel * PANEL * product.in, product.in, ahead,
                              sums);
    UNROLL for (int p = 0; p < PANELS; ++p)
        UNROLL for (int half = 0; half < 2; ++half) {
            const int64_t column = (panel + p) * PANEL + half * LANES;
            const int64_t room = product.out - column;
            if (room <= 0) continue;
            UNROLL for (int r = 0; r < ROWS; ++r)
                store(to.at(row + r, column),
                      told(product, left, row + r, sums[r][p][half], column, within(room)), room);
        }
}

// What is added to rows before they are gated, [out] each; null for a row that nothing is added to.
using Beside = const float* const*;

// The panel pair's gated outputs, of which there are out / 2.
template <typename W, typename T, int ROWS>
inline void multiply_and_gate(const Product<W>& product, const Rows<W>& left, int64_t row, int64_t pair, Gate gate,
                              Beside beside, const Ahead& ahead, const Place<T>& to) {
    using F = Format<T>;
    typename Format<W>::Sum sums[ROWS][2][2];
    multiply<W, ROWS, 2>(left.at(row), left.stride, product.weight + 2 * pair * PANEL * product.in, product.in, ahead,
                         sums);
    const int64_t wide = product.out / 2;
    UNROLL for (int half = 0; half < 2; ++half) {
        const int64_t column = pair * PANEL + half * LANES;
        const int64_t room = wide - column;
        if (room <= 0) continue;
        UNROLL for (int r = 0; r < ROWS; ++r) {
            Vector opened = told(product, left, row + r, sums[r][0][half], column, within(room));
            Vector held = told(product, left, row + r, sums[r][1][half], wide + column, within(room));
            if (beside && beside[row + r]) {
                opened = _mm512_add_ps(opened, _mm512_maskz_loadu_ps(within(room), beside[row + r] + column));
                held = _mm512_add_ps(held, _mm512_maskz_loadu_ps(within(room), beside[row + r] + wide + column));
            }
            opened = F::round(opened);
            held = F::round(held);
            const Vector open = F::round(gate == Gate::silu ? silu(opened) : gelu(opened));
            store(to.at(row + r, column), _mm512_mul_ps(open, held), room);
        }
    }
}

// Call `work.template operator()<n>(row)` over all rows, in groups of as many as there may be or one less than others:
// a small one at the end would have too few sums under way.
template <int MOST, typename Work> inline void by_rows(int64_t rows, const Work& work) {
    for (int64_t row = 0, groups = (rows + MOST - 1) / MOST; row < rows; --groups) {
        const int64_t many = (rows - row + groups - 1) / groups;
        switch (many) {
#define OSTINATO_ROWS(n)                                                                                               \
    case n:                                                                                                            \
        if constexpr (n <= MOST) work.template operator()<n>(row);                                                     \
        break;
            OSTINATO_ROWS(1)
            OSTINATO_ROWS(2)
            OSTINATO_ROWS(3)
            OSTINATO_ROWS(4)
            OSTINATO_ROWS(5)
            OSTINATO_ROWS(6)
            OSTINATO_ROWS(7)
            OSTINATO_ROWS(8)
            OSTINATO_ROWS(9)
            OSTINATO_ROWS(10)
            OSTINATO_ROWS(11)
            OSTINATO_ROWS(12)
#undef OSTINATO_ROWS
        }
        row += many;
    }
}

// So many rows are computed in less time than the weights that follow take to come: these are asked for meanwhile.
constexpr int64_t LEAST_AHEAD = 5, MOST_AHEAD = 128;

// Panels to be asked for while those before them are multiplied.
template <typename W> inline Ahead behind(const Product<W>& product, int64_t panel, int64_t many, int64_t rows) {
    if (rows < LEAST_AHEAD || rows > MOST_AHEAD || panel + many > product.panels()) return {};
    return {reinterpret_cast<const char*>(product.weight) + panel * product.bytes(), many * product.bytes() / Ahead::LINE};
}

// A piece of a product is large enough to be worth its taking: some 32 KiB of weights.
template <typename W> inline int64_t panels_together(const Product<W>& product) {
    return std::max<int64_t>(1, (32 << 10) / (PANEL * product.in * static_cast<int64_t>(sizeof(W))));
}

// Pieces of a product, so many panels each.
template <typename W, typename U> struct Panels {
    Product<W> product;
    int64_t together;
    bool pairs;  // two panels at once

    int64_t wide() const { return product.out; }
    int pieces() const { return static_cast<int>((product.panels() + together - 1) / together); }

    void operator()(const Rows<W>& left, int64_t rows, const Place<U>& to, int begin, int until) const {
        int64_t panel = begin * together;
        const int64_t end = std::min(product.panels(), until * together);
        for (; pairs && panel + 2 <= end; panel += 2) {
            const Ahead next = behind(product, panel + 2, 2, rows);
            by_rows<6>(rows, [&]<int N>(int64_t row) {
                multiply_and_store<W, U, N, 2>(product, left, row, panel, next.share(row, N, rows), to);
            });
        }
        for (; panel < end; ++panel) {
            const Ahead next = behind(product, panel + 1, 1, rows);
            by_rows<12>(rows, [&]<int N>(int64_t row) {
                multiply_and_store<W, U, N, 1>(product, left, row, panel, next.share(row, N, rows), to);
            });
        }
    }
};

// The same with a gate over a product that was packed for one.
template <typename W, typename U> struct GatedPanels {
    Product<W> product;
    int64_t together;
    Gate gate;
    Beside beside;

    int64_t wide() const { return product.out / 2; }
    int64_t panels() const { return (wide() + PANEL - 1) / PANEL; }
    int pieces() const { return static_cast<int>((panels() + together - 1) / together); }

    void operator()(const Rows<W>& left, int64_t rows, const Place<U>& to, int begin, int until) const {
        const int64_t end = std::min(panels(), until * together);
        for (int64_t pair = begin * together; pair < end; ++pair) {
            const Ahead next = behind(product, 2 * pair + 2, 2, rows);
            by_rows<6>(rows, [&]<int N>(int64_t row) {
                multiply_and_gate<W, U, N>(product, left, row, pair, gate, beside, next.share(row, N, rows), to);
            });
        }
    }
};

// Rows times pieces of a product, for threads that race: whoever is not the caller works on copies of the rows.
template <typename W, typename U, typename Pieces> struct Multiplication {
    Pieces pieces;
    Rows<W> left;
    int64_t rows;
    U* to;  // [rows][pieces.wide()]
    using Number = typename Format<W>::Left;

    void operator()(int begin, int end) const { pieces(left, rows, Place<U>{to, pieces.wide(), 0}, begin, end); }

    void copy(Aside& memory) const {
        if (!memory.given.empty()) return;
        const size_t row = pieces.product.in * sizeof(Number), scales = left.scales ? rows * sizeof(float) : 0;
        memory.given.resize(scales + rows * row);
        if (scales) std::memcpy(memory.given.data(), left.scales, scales);
        for (int64_t i = 0; i < rows; ++i) std::memcpy(memory.given.data() + scales + i * row, left.at(i), row);
    }

    void aside(int begin, int end, Aside& memory) const {
        const size_t scales = left.scales ? rows * sizeof(float) : 0;
        memory.made.resize(rows * width(begin, end) * sizeof(U));
        const auto* numbers = reinterpret_cast<const Number*>(memory.given.data() + scales);
        const auto* own_scales = scales ? reinterpret_cast<const float*>(memory.given.data()) : nullptr;
        pieces(Rows<W>{numbers, pieces.product.in, own_scales}, rows,
               Place<U>{reinterpret_cast<U*>(memory.made.data()), width(begin, end), first(begin)}, begin, end);
    }

    void commit(int begin, int end, const Aside& memory) const {
        const size_t row = width(begin, end) * sizeof(U);
        for (int64_t i = 0; i < rows; ++i)
            std::memcpy(to + i * pieces.wide() + first(begin), memory.made.data() + i * row, row);
    }

  private:
    int64_t first(int piece) const { return piece * pieces.together * PANEL; }
    int64_t width(int begin, int end) const { return std::min(pieces.wide(), first(end)) - first(begin); }
};

// So few rows wait for the weights to be read, and a piece is done in microseconds.
constexpr int64_t FEW = 8;

template <typename W, typename U, typename Pieces>
void multiply_all(Crew& crew, const Pieces& pieces, const Rows<W>& left, int64_t rows, U* to) {
    const Multiplication<W, U, Pieces> work{pieces, left, rows, to};
    if (rows <= FEW) crew.race(pieces.pieces(), work);
    else crew.part(pieces.pieces(), work);
}

// Rows times the weight, to [rows, out].
template <typename W, typename U>
void run_over(Crew& crew, const Product<W>& product, const Rows<W>& left, int64_t rows, U* to) {
    // two panels at once for few rows, so that there are sums enough to be under way; but one row waits for memory
    // anyway, and then small pieces are better: nobody is left without one while another has a large one in hand
    const bool pairs = rows <= 6 && (rows > 1 || product.panels() >= MANY * crew.threads());
    multiply_all<W, U>(crew, Panels<W, U>{product, panels_together(product) * (pairs ? 2 : 1), pairs}, left, rows, to);
}

// The same with a gate over a product that was packed for one, to [rows, out / 2].
template <typename W, typename T>
void gate_over(Crew& crew, const Product<W>& product, const Rows<W>& left, int64_t rows, Gate gate, Beside beside,
               T* to) {
    const GatedPanels<W, T> pieces{product, panels_together(product), gate, beside};
    // who is done without would go on reading what stands beside, and that is not copied
    if (beside) crew.part(pieces.pieces(), Multiplication<W, T, GatedPanels<W, T>>{pieces, left, rows, to});
    else multiply_all<W, T>(crew, pieces, left, rows, to);
}

// A row in 8 bits: the largest number is 127 steps from 0, and all are moved up by 128. Returns the step; what has a
// number that is none or infinite has a step that is.
template <typename T> inline float narrowed(const T* x, int64_t width, uint8_t* to) {
    const __m512i sign = _mm512_set1_epi32(INT32_MIN);
    __m512i most = _mm512_setzero_si512();  // as whole numbers: what is none is larger than what is infinite
    for (int64_t i = 0; i < width; i += LANES)
        most = _mm512_max_epi32(most, _mm512_andnot_si512(sign, _mm512_castps_si512(load_some(x + i, width - i))));
    const int32_t bits = _mm512_reduce_max_epi32(most);
    float largest;
    std::memcpy(&largest, &bits, 4);
    const Vector many = _mm512_set1_ps(largest > 0 ? 127.0f / largest : 0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        __m512i steps = _mm512_cvtps_epi32(_mm512_mul_ps(load_some(x + i, width - i), many));
        steps = _mm512_add_epi32(_mm512_max_epi32(_mm512_set1_epi32(-127), _mm512_min_epi32(steps, _mm512_set1_epi32(127))),
                                 _mm512_set1_epi32(128));
        _mm_mask_storeu_epi8(to + i, within(width - i), _mm512_cvtepi32_epi8(steps));
    }
    return largest / 127.0f;
}

// Rows in 8 bits; they lie in this thread's memory until it narrows others.
template <typename T>
Rows<int8_t> narrow_all(Crew& crew, const T* x, int64_t stride, int64_t rows, int64_t width) {
    thread_local std::vector<uint8_t> numbers;
    thread_local std::vector<float> scales;
    numbers.resize(rows * width);
    scales.resize(rows);
    uint8_t* to = numbers.data();
    float* steps = scales.data();
    each(crew, rows, 8, [&](int64_t row) { steps[row] = narrowed(x + row * stride, width, to + row * width); });
    return {to, width, steps};
}

// x [rows, in], rows `stride` apart, times the weight, to [rows, out]. U is T, or float for what is to be told exactly.
template <typename T, typename U>
void run(Crew& crew, const Weights<T>& weights, const T* x, int64_t stride, int64_t rows, U* to) {
    if (weights.narrow.weight)
        run_over<int8_t, U>(crew, weights.narrow, narrow_all(crew, x, stride, rows, weights.narrow.in), rows, to);
    else run_over<T, U>(crew, weights.plain, Rows<T>{x, stride}, rows, to);
}

// The same with a gate over a product that was packed for one, to [rows, out / 2].
template <typename T>
void run_gated(Crew& crew, const Weights<T>& weights, const T* x, int64_t stride, int64_t rows, Gate gate,
               Beside beside, T* to) {
    if (weights.narrow.weight)
        gate_over<int8_t, T>(crew, weights.narrow, narrow_all(crew, x, stride, rows, weights.narrow.in), rows, gate,
                             beside, to);
    else gate_over<T, T>(crew, weights.plain, Rows<T>{x, stride}, rows, gate, beside, to);
}

}  // namespace ostinato
