// What is done to each token by itself: norms, rotation, and keys and values put into their blocks.

#pragma once

#include "crew.h"
#include "numbers.h"

namespace ostinato {

// Call `work(index)` for indices below `count`, several in a piece; few are not worth asking anybody for help.
template <typename Work> inline void each(Crew& crew, int64_t count, int64_t together, const Work& work) {
    if (count <= together) {
        for (int64_t i = 0; i < count; ++i) work(i);
        return;
    }
    crew.share(static_cast<int>((count + together - 1) / together), [&](int piece) {
        const int64_t end = std::min(count, (piece + 1) * together);
        for (int64_t i = piece * together; i < end; ++i) work(i);
    });
}

template <typename T> inline Vector load_some(const T* from, int64_t room) {
    if (room >= LANES) return Format<T>::load(from);
    T some[LANES] = {};
    std::memcpy(some, from, room * sizeof(T));
    return Format<T>::load(some);
}

template <typename T> inline void store_some(T* to, Vector x, int64_t room) {
    if (room >= LANES) Format<T>::store(to, x);
    else Format<T>::store_some(to, x, static_cast<int>(room));
}

template <typename T> inline float squares(const T* x, int64_t width) {
    Vector sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    for (int64_t i = 0; i < width; i += LANES) {
        const Vector part = load_some(x + i, width - i);
        Vector& sum = sums[(i / LANES) % 4];
        sum = _mm512_fmadd_ps(part, part, sum);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
}

// Divide by the root mean square, scale. Zhang and Sennrich 2019, arXiv 1910.07467.
template <typename T> inline void norm(const T* x, const float* weight, int64_t width, float eps, T* to) {
    const Vector scale = _mm512_set1_ps(1.0f / std::sqrt(squares(x, width) / static_cast<float>(width) + eps));
    for (int64_t i = 0; i < width; i += LANES) {
        const Vector normal = _mm512_mul_ps(load_some(x + i, width - i), scale);
        store_some(to + i, _mm512_mul_ps(normal, load_some(weight + i, width - i)), width - i);
    }
}

// residual += x, rounded as it is kept.
template <typename T, typename U> inline void add(T* residual, const U* x, int64_t width) {
    for (int64_t i = 0; i < width; i += LANES)
        store_some(residual + i, _mm512_add_ps(load_some(residual + i, width - i), load_some(x + i, width - i)),
                   width - i);
}

// Turn pairs (i, i + half) of a head whose first 2 * half numbers turn. Su et al. 2021, arXiv 2104.09864.
template <typename T> inline void turn(T* head, int64_t half, const float* cosines, const float* sines) {
    for (int64_t i = 0; i < half; i += LANES) {
        const int64_t room = half - i;
        const Vector a = load_some(head + i, room), b = load_some(head + half + i, room);
        const Vector cosine = load_some(cosines + i, room), sine = load_some(sines + i, room);
        store_some(head + i, _mm512_fnmadd_ps(b, sine, _mm512_mul_ps(a, cosine)), room);
        store_some(head + half + i, _mm512_fmadd_ps(a, sine, _mm512_mul_ps(b, cosine)), room);
    }
}

// How keys and values lie in a block: for each head and each 16 tokens the keys, [numbers taken together][token], then
// the values, [tokens taken together][number]. Both are what a product reads in lanes. `block_size` and `head_dim` are
// multiples of 16.
struct Cache {
    int64_t block_size, kv_heads, head_dim;

    int64_t part() const { return LANES * head_dim; }  // keys of 16 tokens of a head, or their values
    int64_t block() const { return 2 * block_size * kv_heads * head_dim; }
    // Where the keys of a head begin for the 16 tokens with this slot.
    int64_t at(int64_t slot, int64_t head) const {
        const int64_t sixteens = block_size / LANES, place = slot % block_size;
        return slot / block_size * block() + (head * sixteens + place / LANES) * 2 * part();
    }
};

template <typename T>
inline void write(const Cache& cache, T* memory, int64_t slot, int64_t head, const T* key, const T* value) {
    constexpr int TOGETHER = Format<T>::TOGETHER;
    T* keys = memory + cache.at(slot, head);
    T* values = keys + cache.part();
    const int64_t token = slot % LANES;
    for (int64_t i = 0; i < cache.head_dim; i += TOGETHER)
        std::memcpy(keys + i * LANES + token * TOGETHER, key + i, TOGETHER * sizeof(T));
    values += token / TOGETHER * TOGETHER * cache.head_dim + token % TOGETHER;
    for (int64_t i = 0; i < cache.head_dim; ++i) values[i * TOGETHER] = value[i];
}

}  // namespace ostinato
