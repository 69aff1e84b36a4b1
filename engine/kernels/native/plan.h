// Who looks at which keys in a step, and with whom.

#pragma once

#include <algorithm>
#include <cstdint>
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
    int64_t places;  // where its first key head's sixteens begin in `Plan::places`
    int64_t sixteens;
};

// A piece of attention's work: rows of a run that share a key head, or all such of several runs that begin with the same
// blocks.
struct Piece {
    int64_t run;
    int many;        // runs, one after the other
    int64_t common;  // keys that all of them see in the same places, in whole spans
    int64_t kv_head, row;
    int rows;        // of each run
};

// Who attends to what in a step, the same for all layers of a group.
struct Plan {
    std::vector<int64_t> places;  // where the keys of sixteen tokens are, run by run and head by head
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

// Part a step's tokens into pieces: tables [requests][widest], counts and lengths [requests].
inline Plan planned(const Cache& cache, int64_t heads, int64_t requests, const int64_t* tables, int64_t widest,
                    const int64_t* counts, const int64_t* lengths) {
    Plan plan;
    const int64_t shared = heads / cache.kv_heads, each = cache.block_size / LANES, blocks = SPAN / cache.block_size;
    std::vector<int64_t> firsts(requests);
    for (int64_t i = 0, first = 0; i < requests; first += counts[i++]) firsts[i] = first;
    // spans of whole blocks, or nothing is looked at together
    const bool together = shared * 2 <= LARGEST && blocks * cache.block_size == SPAN;
    std::vector<int64_t> order(requests);
    if (together) order = ordered(requests, tables, widest, blocks, counts, lengths);
    else for (int64_t i = 0; i < requests; ++i) order[i] = i;
    for (const int64_t i : order) {
        const int64_t sixteens = (lengths[i] + LANES - 1) / LANES;
        plan.runs.push_back({firsts[i], counts[i], lengths[i] - counts[i] + 1, static_cast<int64_t>(plan.places.size()),
                             sixteens});
        for (int64_t head = 0; head < cache.kv_heads; ++head)
            for (int64_t n = 0; n < sixteens; ++n) {
                const int64_t block = tables[i * widest + n / each];
                plan.places.push_back(cache.at(block * cache.block_size + n % each * LANES, head));
            }
    }
    // so that what is asked for ahead of the last is somewhere
    plan.places.resize(plan.places.size() + FURTHEST, plan.places.empty() ? 0 : plan.places.back());
    // how many of a span's keys, from the first on, two requests have in the same blocks
    auto common = [&](int64_t a, int64_t b) {
        const int64_t most = std::min(lengths[a], lengths[b]) / SPAN * blocks;
        const int64_t *one = tables + a * widest, *other = tables + b * widest;
        return (std::mismatch(one, one + most, other).first - one) / blocks * SPAN;
    };
    for (int64_t at = 0, many; at < requests; at += many) {
        int64_t same = 0;
        for (many = 1; together && at + many < requests && (many + 1) * shared <= LARGEST; ++many) {
            if (counts[order[at]] != 1 || counts[order[at + many]] != 1) break;
            const int64_t own = common(order[at], order[at + many]);
            if (own == 0) break;
            same = many == 1 ? own : std::min(same, own);
        }
        const int64_t rows = counts[order[at]] * shared, tile = many > 1 ? shared : TILE;
        for (int64_t head = 0; head < cache.kv_heads; ++head)
            for (int64_t row = 0; row < rows; row += tile)
                plan.pieces.push_back({at, static_cast<int>(many), many > 1 ? same : 0, head, row,
                                       static_cast<int>(std::min(tile, rows - row))});
    }
    return plan;
}

}  // namespace ostinato
