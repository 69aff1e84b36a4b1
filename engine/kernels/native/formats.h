// What Python calls, for one number format each: its definitions are built once for each in a file of its own, so that
// they are built at the same time.

#pragma once

#include <exception>
#include <memory>
#include <new>
#include <numeric>
#include <sys/mman.h>

#include "draw.h"
#include "trunk.h"

namespace ostinato {

constexpr size_t HUGE_PAGE = size_t{2} << 20;

// Memory in pages of 2 MiB where the system gives them: weights are read from one end to the other for every token.
class Pages {
  public:
    explicit Pages(size_t bytes) : bytes_(bytes + HUGE_PAGE) {
        whole_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (whole_ == MAP_FAILED) throw std::bad_alloc();
        const auto begin = (reinterpret_cast<uintptr_t>(whole_) + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
        numbers_ = reinterpret_cast<void*>(begin);
        madvise(numbers_, bytes, MADV_HUGEPAGE);
    }
    ~Pages() { munmap(whole_, bytes_); }
    Pages(const Pages&) = delete;
    Pages& operator=(const Pages&) = delete;
    void* numbers() const { return numbers_; }

  private:
    size_t bytes_;
    void* whole_;
    void* numbers_;
};

template <typename T> struct Owned {
    Weights<T> weights;
    std::vector<float> bias, scales;
    std::vector<int32_t> above;
    std::unique_ptr<Pages> pages;
};

// Pack rows [out, in] of W into pages of their own.
template <typename W> std::unique_ptr<Pages> paged(const void* weight, int64_t out, int64_t in, bool gated) {
    const int64_t part = gated ? out / 2 : out;
    const int64_t size = (part + PANEL - 1) / PANEL * PANEL * (gated ? 2 : 1) * in;
    auto pages = std::make_unique<Pages>(size * sizeof(W));
    pack(static_cast<const W*>(weight), out, in, gated, static_cast<W*>(pages->numbers()));
    return pages;
}

// `scales` say that the weight is in 8 bits.
template <typename T>
void* packed(const void* weight, const float* scales, const float* bias, int64_t out, int64_t in, bool gated) {
    auto owned = std::make_unique<Owned<T>>();
    if (bias) owned->bias.assign(bias, bias + out);
    const float* own_bias = bias ? owned->bias.data() : nullptr;
    if (scales) {
        owned->scales.assign(scales, scales + out);
        const auto* rows = static_cast<const int8_t*>(weight);
        for (int64_t row = 0; row < out; ++row)
            owned->above.push_back(128 * std::accumulate(rows + row * in, rows + (row + 1) * in, int32_t{0}));
        owned->pages = paged<int8_t>(weight, out, in, gated);
        owned->weights.narrow = {static_cast<const int8_t*>(owned->pages->numbers()), own_bias, in, out,
                                 owned->scales.data(), owned->above.data()};
    } else {
        owned->pages = paged<T>(weight, out, in, gated);
        owned->weights.plain = {static_cast<const T*>(owned->pages->numbers()), own_bias, in, out};
    }
    return owned.release();
}

// What an adapter has beside a product, with the handles of its own.
struct NamedPart {
    void* up;
    int64_t from, first;
};

struct NamedParts {
    void* down;
    const NamedPart* parts;
    int64_t count;
};

// As trunk.h has it, with the handles of products.
struct NamedLayer {
    void *qkv, *out, *gate_up, *down;
    const float *before, *behind_attention, *between, *behind, *head_norm;
    int64_t wide_norm, window, rope, group;
    const NamedParts* adapted[SITES];  // [adapters] each, or null
};

template <typename T> const Weights<T>* weights(void* handle) { return &static_cast<Owned<T>*>(handle)->weights; }

template <typename T>
std::array<Adapted<T>, SITES> adapted(const NamedLayer& layer, int64_t adapters) {
    std::array<Adapted<T>, SITES> own;
    for (int site = 0; site < SITES; ++site)
        for (int64_t i = 0; layer.adapted[site] && i < adapters; ++i) {
            const NamedParts& named = layer.adapted[site][i];
            Adapter<T>& adapter = own[site].emplace_back();
            if (named.down) adapter.down = weights<T>(named.down);
            for (int64_t k = 0; k < named.count; ++k)
                adapter.parts.push_back({weights<T>(named.parts[k].up), named.parts[k].from, named.parts[k].first});
        }
    return own;
}

template <typename T>
void* trunk(const Shape& shape, const NamedLayer* layers, int64_t count, int64_t adapters, const Turning* turnings,
            int64_t ropes, const float* last_norm) {
    std::vector<Layer<T>> own;
    for (int64_t i = 0; i < count; ++i) {
        const NamedLayer& layer = layers[i];
        own.push_back({weights<T>(layer.qkv), weights<T>(layer.out), weights<T>(layer.gate_up),
                       weights<T>(layer.down), layer.before, layer.behind_attention, layer.between, layer.behind,
                       layer.head_norm, layer.wide_norm, layer.window, layer.rope, layer.group,
                       adapted<T>(layer, adapters)});
    }
    return new Trunk<T>(shape, own.data(), count, turnings, ropes, last_norm);
}

template <typename T>
void attend_all(Crew& crew, const Cache& cache, const Look& look, const Batch& batch, const void* query,
                int64_t stride, int64_t heads, const void* memory, void* to) {
    const Plan plan = planned(cache, heads, batch.requests, batch.groups->tables, batch.widest, batch.counts,
                              batch.lengths, look.window == 0);
    attend(crew, cache, look, static_cast<const T*>(memory), plan,
           Query<T>{static_cast<const T*>(query), stride, heads, static_cast<T*>(to)});
}

template <typename T>
void write_all(const Cache& cache, void* memory, const int64_t* slots, int64_t tokens, const void* keys,
               const void* values) {
    const int64_t width = cache.kv_heads * cache.head_dim;
    for (int64_t row = 0; row < tokens; ++row)
        for (int64_t head = 0; head < cache.kv_heads; ++head) {
            const int64_t at = row * width + head * cache.head_dim;
            write(cache, static_cast<T*>(memory), slots[row], head, static_cast<const T*>(keys) + at,
                  static_cast<const T*>(values) + at);
        }
}

template <typename T>
void multiply_all(Crew& crew, void* handle, const void* x, int64_t stride, int64_t rows, void* to, bool wide) {
    const auto& own = *weights<T>(handle);
    if (wide) run<T, float>(crew, own, static_cast<const T*>(x), stride, rows, static_cast<float*>(to));
    else run<T, T>(crew, own, static_cast<const T*>(x), stride, rows, static_cast<T*>(to));
}

template <typename T>
void gate_all(Crew& crew, void* handle, const void* x, int64_t stride, int64_t rows, int64_t gate, Beside beside,
              void* to) {
    run_gated<T>(crew, *weights<T>(handle), static_cast<const T*>(x), stride, rows, static_cast<Gate>(gate), beside,
                 static_cast<T*>(to));
}

template <typename T>
int64_t judge_all(Crew& crew, const void* x, int64_t stride, int64_t rows, int64_t width, bool* to) {
    const auto* numbers = static_cast<const T*>(x);
    std::atomic<int64_t> found{0};
    each(crew, rows, std::max<int64_t>(1, (64 << 10) / width), [&](int64_t row) {
        const bool bad = !finite(numbers + row * stride, width);
        if (bad) ++found;
        if (to) to[row] = bad;
    });
    return found;
}

template <typename T> void forget(void* handle) { delete static_cast<Owned<T>*>(handle); }

template <typename T> void forget_trunk(void* handle) { delete static_cast<Trunk<T>*>(handle); }

template <typename T> void forward_all(Crew& crew, void* handle, const Batch& batch, void* const* caches, void* x) {
    static_cast<Trunk<T>*>(handle)->forward(crew, batch, reinterpret_cast<T* const*>(caches), static_cast<T*>(x));
}

// Of all of these, for the format `T`: that they are built here, or with `extern` that they are elsewhere.
#define OF_FORMAT(WHERE, T)                                                                                            \
    WHERE template void* packed<T>(const void*, const float*, const float*, int64_t, int64_t, bool);                   \
    WHERE template void forget<T>(void*);                                                                              \
    WHERE template void* trunk<T>(const Shape&, const NamedLayer*, int64_t, int64_t, const Turning*, int64_t,          \
                                  const float*);                                                                       \
    WHERE template void forget_trunk<T>(void*);                                                                        \
    WHERE template void forward_all<T>(Crew&, void*, const Batch&, void* const*, void*);                               \
    WHERE template void attend_all<T>(Crew&, const Cache&, const Look&, const Batch&, const void*, int64_t, int64_t,   \
                                      const void*, void*);                                                             \
    WHERE template void write_all<T>(const Cache&, void*, const int64_t*, int64_t, const void*, const void*);          \
    WHERE template void multiply_all<T>(Crew&, void*, const void*, int64_t, int64_t, void*, bool);                     \
    WHERE template void gate_all<T>(Crew&, void*, const void*, int64_t, int64_t, int64_t, Beside, void*);              \
    WHERE template int64_t judge_all<T>(Crew&, const void*, int64_t, int64_t, int64_t, bool*)

}  // namespace ostinato
