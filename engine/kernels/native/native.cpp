// What Python calls. Numbers come as pointers to contiguous memory; `half` says that they are bf16, else float.

#include "formats.h"

using namespace ostinato;

namespace ostinato {

OF_FORMAT(extern, bf16);
OF_FORMAT(extern, float);

}  // namespace ostinato

namespace {

// Do what Python asked for: 0, or -1 where there is no memory for it. Nothing may be thrown into Python.
template <typename Do> int64_t done(const Do& what) noexcept {
    try {
        what();
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

// Make what Python asked for; null where there is no memory for it.
template <typename Make> void* made(const Make& what) noexcept {
    try {
        return what();
    } catch (const std::exception&) {
        return nullptr;
    }
}

}  // namespace

// What makes something gives null, and what does something -1, where there is no memory for it.
extern "C" {

void* crew_new(int64_t threads) {
    return made([&]() -> void* { return new Crew(static_cast<int>(threads)); });
}
void crew_free(void* crew) {
    auto* own = static_cast<Crew*>(crew);
    if (own->here()) delete own;  // else there is nobody to join
}

// weight [out, in], in 8 bits if there are scales [out].
void* product_new(int64_t half, const void* weight, const float* scales, const float* bias, int64_t out, int64_t in,
                  int64_t gated) {
    return made([&] {
        return half ? packed<bf16>(weight, scales, bias, out, in, gated)
                    : packed<float>(weight, scales, bias, out, in, gated);
    });
}

void product_free(int64_t half, void* handle) {
    Crew::settle();
    if (half) forget<bf16>(handle);
    else forget<float>(handle);
}

// x [rows, in], rows `stride` apart -> [rows, out], in float if `wide`.
int64_t product_run(void* crew, int64_t half, void* handle, const void* x, int64_t stride, int64_t rows, void* to,
                    int64_t wide) {
    return done([&] {
        if (half) multiply_all<bf16>(*static_cast<Crew*>(crew), handle, x, stride, rows, to, wide);
        else multiply_all<float>(*static_cast<Crew*>(crew), handle, x, stride, rows, to, wide);
    });
}

// The same over a product that was packed for a gate: x -> [rows, out / 2]. To rows that `beside` has numbers for, [out]
// each, they are added before the gate; it may be null.
int64_t product_run_gated(void* crew, int64_t half, void* handle, const void* x, int64_t stride, int64_t rows,
                          int64_t gate, Beside beside, void* to) {
    return done([&] {
        if (half) gate_all<bf16>(*static_cast<Crew*>(crew), handle, x, stride, rows, gate, beside, to);
        else gate_all<float>(*static_cast<Crew*>(crew), handle, x, stride, rows, gate, beside, to);
    });
}

void* trunk_new(int64_t half, const Shape* shape, const void* layers, int64_t count, int64_t adapters,
                const Turning* turnings, int64_t ropes, const float* last_norm) {
    const auto* named = static_cast<const NamedLayer*>(layers);
    return made([&] {
        return half ? trunk<bf16>(*shape, named, count, adapters, turnings, ropes, last_norm)
                    : trunk<float>(*shape, named, count, adapters, turnings, ropes, last_norm);
    });
}

void trunk_free(int64_t half, void* handle) {
    if (half) forget_trunk<bf16>(handle);
    else forget_trunk<float>(handle);
}

// x [tokens, hidden] in place.
int64_t trunk_forward(void* crew, int64_t half, void* handle, const Batch* batch, void* const* caches, void* x) {
    auto& own = *static_cast<Crew*>(crew);
    return done([&] {
        if (half) forward_all<bf16>(own, handle, *batch, caches, x);
        else forward_all<float>(own, handle, *batch, caches, x);
    });
}

// query [tokens, heads, head_dim], tokens `stride` apart -> [tokens, heads * head_dim].
int64_t attention_run(void* crew, int64_t half, const Cache* cache, const Look* look, const Batch* batch,
                      const void* query, int64_t stride, int64_t heads, const void* memory, void* to) {
    auto& own = *static_cast<Crew*>(crew);
    return done([&] {
        if (half) attend_all<bf16>(own, *cache, *look, *batch, query, stride, heads, memory, to);
        else attend_all<float>(own, *cache, *look, *batch, query, stride, heads, memory, to);
    });
}

// keys and values [tokens, kv_heads, head_dim].
void cache_write(int64_t half, const Cache* cache, void* memory, const int64_t* slots, int64_t tokens,
                 const void* keys, const void* values) {
    if (half) write_all<bf16>(*cache, memory, slots, tokens, keys, values);
    else write_all<float>(*cache, memory, slots, tokens, keys, values);
}

// x [rows, width], rows `stride` apart: how many rows hold a number that is not finite, and which, to [rows] or null.
int64_t unsound_run(void* crew, int64_t half, const void* x, int64_t stride, int64_t rows, int64_t width, bool* to) {
    auto& own = *static_cast<Crew*>(crew);
    return half ? judge_all<bf16>(own, x, stride, rows, width, to) : judge_all<float>(own, x, stride, rows, width, to);
}

// logits [rows, width], rows `stride` apart -> [rows], a token of each.
int64_t draw_run(void* crew, const float* logits, int64_t stride, int64_t rows, int64_t width, const Chances* chances,
                 int64_t* to) {
    return done([&] {
        each(*static_cast<Crew*>(crew), rows, 1,
             [&](int64_t row) { to[row] = choose(logits + row * stride, width, *chances, row); });
    });
}

}  // extern "C"
