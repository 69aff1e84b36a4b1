// Who looks at which keys in a step, and with whom.

#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "numbers.h"
#include "pointwise.h"

namespace ostinato {

constexpr int SPAN = 256;
constexpr int TILE = 6;       // query rows that look at the same keys together
constexpr int LARGEST = 12;   // so many where they are several requests' and the keys are there once
constexpr int FURTHEST = 16;  // sixteens of tokens that are asked for ahead, at most

// Tokens of one request: `tokens` from the batch's row `first` on, the first of which sees `seen` keys.
struct Run {
    int64_t first, tokens, seen;
    int64_t sixteens;  // of keys
};

// A piece of attention's work: rows of a run that share a key head, or all such of several runs that begin with the same
// blocks.
struct Piece {
    int64_t run;
    int many;        // runs, one after the other
    int64_t common;  // keys that all of them see in the same places, in whole spans
    int64_t places;  // in `Plan::places`: of these, then of what each run has alone, run by run
    int64_t kv_head, row;
    int rows;        // of each run
};

// Who attends to what in a step, the same for all layers of a group.
struct Plan {
    std::vector<int64_t> places;  // where the keys of sixteen tokens are, in the order in which they are looked at
    std::vector<Run> runs;
    std::vector<Piece> pieces;
};

// Put requests that begin with the same blocks beside one another, of those that bring a single token: tables
// [requests][widest].
inline std::vector<int64_t> ordered(int64_t requests, const int64_t* tables, int64_t widest, int64_t blocks,
                                    const int64_t* counts, const int64_t* lengths) {
    std::vector<int64_t> order(requests);
    for (int64_t i = 0; i < requests; ++i) order[i] = i;
    const int64_t singles = std::find_if(counts, counts + requests, [](int64_t n) { return n != 1; }) - counts;
    auto spans = [&](int64_t i) { return lengths[i] / SPAN; };
    std::stable_sort(order.begin(), order.begin() + singles, [&](int64_t a, int64_t b) {
        // a span's last block tells two beginnings apart, and what is told apart wrongly is only not put together
        for (int64_t span = 1; span <= std::min(spans(a), spans(b)); ++span) {
            const int64_t one = tables[a * widest + span * blocks - 1], other = tables[b * widest + span * blocks - 1];
            if (one != other) return one < other;
        }
        return spans(a) > spans(b);
    });
    return order;
}

// Part a step's tokens into pieces: tables [requests][widest], counts and lengths [requests]. `whole`: each sees all that
// lies before it, so that requests which begin alike may look together.
inline Plan planned(const Cache& cache, int64_t heads, int64_t requests, const int64_t* tables, int64_t widest,
                    const int64_t* counts, const int64_t* lengths, bool whole) {
    Plan plan;
    const int64_t shared = heads / cache.kv_heads, each = cache.block_size / LANES, blocks = SPAN / cache.block_size;
    std::vector<int64_t> firsts(requests), order(requests);
    for (int64_t i = 0, first = 0; i < requests; first += counts[i++]) firsts[i] = first;
    const bool together = whole && shared * 2 <= LARGEST && blocks * cache.block_size == SPAN;
    if (together) order = ordered(requests, tables, widest, blocks, counts, lengths);
    else std::iota(order.begin(), order.end(), 0);
    for (const int64_t i : order)
        plan.runs.push_back({firsts[i], counts[i], lengths[i] - counts[i] + 1, (lengths[i] + LANES - 1) / LANES});
    auto place = [&](int64_t request, int64_t head, int64_t from, int64_t until) {
        for (int64_t n = from; n < until; ++n) {
            const int64_t block = tables[request * widest + n / each];
            plan.places.push_back(cache.at(block * cache.block_size + n % each * LANES, head));
        }
    };
    // how many of a span's keys, from the first on, two requests have in the same blocks
    auto alike = [&](int64_t a, int64_t b) {
        const int64_t most = std::min(lengths[a], lengths[b]) / SPAN * blocks;
        const int64_t *one = tables + a * widest, *other = tables + b * widest;
        return (std::mismatch(one, one + most, other).first - one) / blocks * SPAN;
    };
    for (int64_t at = 0, many; at < requests; at += many) {
        int64_t common = 0;
        for (many = 1; together && at + many < requests && (many + 1) * shared <= LARGEST; ++many) {
            if (counts[order[at]] != 1 || counts[order[at + many]] != 1) break;
            const int64_t own = alike(order[at], order[at + many]);
            if (own == 0) break;
            common = many == 1 ? own : std::min(common, own);
        }
        const int64_t rows = counts[order[at]] * shared, tile = many > 1 ? shared : TILE;
        for (int64_t head = 0; head < cache.kv_heads; ++head) {
            const auto places = static_cast<int64_t>(plan.places.size());
            place(order[at], head, 0, common / LANES);
            for (int64_t run = at; run < at + many; ++run)
                place(order[run], head, common / LANES, plan.runs[run].sixteens);
            for (int64_t row = 0; row < rows; row += tile)
                plan.pieces.push_back({at, static_cast<int>(many), common, places, head, row,
                                       static_cast<int>(std::min(tile, rows - row))});
        }
    }
    // so that what is asked for ahead of the last is somewhere
    plan.places.resize(plan.places.size() + FURTHEST, plan.places.empty() ? 0 : plan.places.back());
    return plan;
}

}  // namespace ostinato
