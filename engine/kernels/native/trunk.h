// All layers of a decoder in one call.

#pragma once

#include <algorithm>
#include <array>
#include <mutex>
#include <vector>

#include "attention.h"
#include "pointwise.h"
#include "product.h"

namespace ostinato {

// The products of a layer that adapters add to.
enum Site { QKV, OUT, GATE_UP, DOWN, SITES };

// What one adapter has beside the outputs from `first` on: `up` is multiplied with what `down` gave from `from` on.
template <typename T> struct LowRank {
    const Weights<T>* up;
    int64_t from, first;
};

template <typename T> struct Adapter {
    const Weights<T>* down = nullptr;  // of all its parts; null if it adds nothing
    std::vector<LowRank<T>> parts;
};

// Of each adapter; empty where none adds anything.
template <typename T> using Adapted = std::vector<Adapter<T>>;

// What a layer has; null where it has it not. Norms are [width], in float.
template <typename T> struct Layer {
    const Weights<T>*qkv, *out, *gate_up, *down;
    const float *before, *behind_attention, *between, *behind;
    const float* head_norm;  // [heads + kv_heads, head_dim]
    int64_t wide_norm;       // whether it is over all heads of a token together
    int64_t window;          // 0: none
    int64_t rope, group;
    std::array<Adapted<T>, SITES> adapted;  // by `Site`
};

// How a kind of layer turns: head's first 2 * half numbers.
struct Turning {
    const float* frequencies;  // [half]
    int64_t half;
    float magnitude;
};

struct Shape {
    int64_t hidden, heads, kv_heads, head_dim, inner, block_size;
    float eps, scale, cap;
    int64_t gate;
};

// Where the layers of a group keep what belongs to a step's tokens.
struct Held {
    const int64_t *slots, *tables;  // [tokens], [requests][widest]
};

// A step's flat batch: requests follow one another.
struct Batch {
    int64_t tokens, requests, widest;
    const int64_t *positions, *counts, *lengths;  // [tokens], [requests], [requests]
    const Held* groups;
    int64_t routed, stretches;                   // tokens that have an adapter, and stretches of such with the same one
    const int64_t *rows, *adapters, *ends;       // [routed] of the batch; [stretches]: whose, and to where in `rows`
};

template <typename T> class Trunk {
    using F = Format<T>;

  public:
    Trunk(const Shape& shape, const Layer<T>* layers, int64_t count, const Turning* turnings, int64_t ropes,
          const float* last_norm)
        : shape_(shape), cache_{shape.block_size, shape.kv_heads, shape.head_dim}, layers_(layers, layers + count),
          turnings_(turnings, turnings + ropes), last_norm_(last_norm) {
        int64_t groups = 0;
        for (const Layer<T>& layer : layers_) groups = std::max(groups, layer.group + 1);
        plans_.resize(groups);
        whole_.resize(groups, true);
        for (const Layer<T>& layer : layers_)
            if (layer.window) whole_[layer.group] = false;
    }

    // x [tokens, hidden] from vectors of tokens to hidden states behind the last norm; caches of all layers.
    void forward(Crew& crew, const Batch& batch, T* const* caches, T* x) {
        std::lock_guard alone(buffers_);
        const int64_t tokens = batch.tokens;
        grow(tokens);
        prepare(crew, batch);
        std::memcpy(residual_.data(), x, tokens * shape_.hidden * sizeof(T));
        // what the last part of a layer gave is added where the next begins
        const T* given = nullptr;
        for (size_t i = 0; i < layers_.size(); ++i) {
            const Layer<T>& layer = layers_[i];
            normalise(crew, tokens, given, nullptr, layer.before);
            run<T, T>(crew, *layer.qkv, normal_.data(), shape_.hidden, tokens, qkv_.data());
            adapt(crew, layer, QKV, batch, normal_.data(), shape_.hidden, qkv_.data(), qkv_width());
            place(crew, layer, batch, caches[i]);
            const Look look{shape_.scale, shape_.cap, layer.window};
            const Query<T> query{qkv_.data(), qkv_width(), shape_.heads, seen_.data()};
            attend(crew, cache_, look, caches[i], plans_[layer.group], query);
            run<T, T>(crew, *layer.out, seen_.data(), q_width(), tokens, given_.data());
            adapt(crew, layer, OUT, batch, seen_.data(), q_width(), given_.data(), shape_.hidden);
            normalise(crew, tokens, given_.data(), layer.behind_attention, layer.between);
            run_gated<T>(crew, *layer.gate_up, normal_.data(), shape_.hidden, tokens, static_cast<Gate>(shape_.gate),
                         beside(crew, layer, batch), inner_.data());
            run<T, T>(crew, *layer.down, inner_.data(), shape_.inner, tokens, given_.data());
            adapt(crew, layer, DOWN, batch, inner_.data(), shape_.inner, given_.data(), shape_.hidden);
            if (layer.behind) {
                T* own = given_.data();
                each(crew, tokens, 8, [&](int64_t row) {
                    norm(own + row * shape_.hidden, layer.behind, shape_.hidden, shape_.eps, own + row * shape_.hidden);
                });
            }
            given = given_.data();
        }
        normalise(crew, tokens, given, nullptr, last_norm_);
        std::memcpy(x, normal_.data(), tokens * shape_.hidden * sizeof(T));
    }

  private:
    int64_t q_width() const { return shape_.heads * shape_.head_dim; }
    int64_t qkv_width() const { return (shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim; }

    void grow(int64_t tokens) {
        auto room = [&](std::vector<T>& buffer, int64_t width) {
            if (static_cast<int64_t>(buffer.size()) < tokens * width) buffer.resize(tokens * width);
        };
        room(residual_, shape_.hidden);
        room(normal_, shape_.hidden);
        room(given_, shape_.hidden);
        room(qkv_, qkv_width());
        room(seen_, q_width());
        room(inner_, shape_.inner);
    }

    // What all layers share: angles, and who attends to what.
    void prepare(Crew& crew, const Batch& batch) {
        angles_.resize(turnings_.size());
        for (size_t rope = 0; rope < turnings_.size(); ++rope) {
            const Turning& turning = turnings_[rope];
            angles_[rope].resize(2 * batch.tokens * turning.half);
            each(crew, batch.tokens, 4, [&](int64_t row) {
                float* cosines = angles_[rope].data() + 2 * row * turning.half;
                for (int64_t i = 0; i < turning.half; ++i) {
                    const float angle = static_cast<float>(batch.positions[row]) * turning.frequencies[i];
                    cosines[i] = F::widen(F::narrow(std::cos(angle) * turning.magnitude));
                    cosines[turning.half + i] = F::widen(F::narrow(std::sin(angle) * turning.magnitude));
                }
            });
        }
        for (size_t group = 0; group < plans_.size(); ++group)
            plans_[group] = planned(cache_, shape_.heads, batch.requests, batch.groups[group].tables, batch.widest,
                                    batch.counts, batch.lengths, whole_[group]);
    }

    // residual += what was given, normed if it is to be; then the norm of the residual, or itself.
    void normalise(Crew& crew, int64_t tokens, const T* given, const float* behind, const float* weight) {
        const int64_t width = shape_.hidden;
        each(crew, tokens, 8, [&](int64_t row) {
            T* residual = residual_.data() + row * width;
            T* normal = normal_.data() + row * width;
            if (given) {
                const T* own = given + row * width;
                if (behind) {
                    norm(own, behind, width, shape_.eps, normal);
                    own = normal;
                }
                add(residual, own, width);
            }
            if (weight) norm(residual, weight, width, shape_.eps, normal);
            else std::memcpy(normal, residual, width * sizeof(T));
        });
    }

    // What adapters add to a product of x [tokens, in], to `added_` [routed, out]; false where none adds anything.
    bool add_up(Crew& crew, const Layer<T>& layer, Site site, const Batch& batch, const T* x, int64_t in,
                int64_t out) {
        const Adapted<T>& adapted = layer.adapted[site];
        if (!batch.routed || adapted.empty()) return false;
        own_.resize(batch.routed * in);
        added_.assign(batch.routed * out, 0.0f);
        for (int64_t i = 0; i < batch.routed; ++i)
            std::memcpy(own_.data() + i * in, x + batch.rows[i] * in, in * sizeof(T));
        for (int64_t stretch = 0, begin = 0; stretch < batch.stretches; begin = batch.ends[stretch++]) {
            const int64_t rows = batch.ends[stretch] - begin;
            const Adapter<T>& adapter = adapted[batch.adapters[stretch]];
            if (!adapter.down) continue;
            const int64_t ranks = outputs(*adapter.down);
            low_.resize(rows * ranks);
            run<T, T>(crew, *adapter.down, own_.data() + begin * in, in, rows, low_.data());
            for (const LowRank<T>& part : adapter.parts) {
                const int64_t width = outputs(*part.up);
                wide_.resize(rows * width);
                run<T, float>(crew, *part.up, low_.data() + part.from, ranks, rows, wide_.data());
                for (int64_t row = 0; row < rows; ++row)
                    std::memcpy(added_.data() + (begin + row) * out + part.first, wide_.data() + row * width,
                                width * sizeof(float));
            }
        }
        return true;
    }

    static int64_t outputs(const Weights<T>& weights) { return weights.plain.out; }

    void adapt(Crew& crew, const Layer<T>& layer, Site site, const Batch& batch, const T* x, int64_t in, T* to,
               int64_t out) {
        if (!add_up(crew, layer, site, batch, x, in, out)) return;
        for (int64_t i = 0; i < batch.routed; ++i) add(to + batch.rows[i] * out, added_.data() + i * out, out);
    }

    // What is added before the gate, by token; null where nothing is.
    Beside beside(Crew& crew, const Layer<T>& layer, const Batch& batch) {
        if (!add_up(crew, layer, GATE_UP, batch, normal_.data(), shape_.hidden, 2 * shape_.inner)) return nullptr;
        beside_.assign(batch.tokens, nullptr);
        for (int64_t i = 0; i < batch.routed; ++i) beside_[batch.rows[i]] = added_.data() + i * 2 * shape_.inner;
        return beside_.data();
    }

    // Norm and turn queries and keys, put keys and values where they belong.
    void place(Crew& crew, const Layer<T>& layer, const Batch& batch, T* memory) {
        const int64_t width = shape_.head_dim, turned = shape_.heads + shape_.kv_heads;
        const Turning& turning = turnings_[layer.rope];
        const float* angles = angles_[layer.rope].data();
        const int64_t* slots = batch.groups[layer.group].slots;
        each(crew, batch.tokens, 4, [&](int64_t row) {
            T* own = qkv_.data() + row * qkv_width();
            if (layer.head_norm && layer.wide_norm) {
                norm(own, layer.head_norm, q_width(), shape_.eps, own);
                norm(own + q_width(), layer.head_norm + q_width(), shape_.kv_heads * width, shape_.eps,
                     own + q_width());
            }
            const float* cosines = angles + 2 * row * turning.half;
            for (int64_t head = 0; head < turned; ++head) {
                T* here = own + head * width;
                if (layer.head_norm && !layer.wide_norm)
                    norm(here, layer.head_norm + head * width, width, shape_.eps, here);
                turn(here, turning.half, cosines, cosines + turning.half);
            }
            for (int64_t head = 0; head < shape_.kv_heads; ++head)
                write(cache_, memory, slots[row], head, own + q_width() + head * width,
                      own + (turned + head) * width);
        });
    }

    const Shape shape_;
    const Cache cache_;
    const std::vector<Layer<T>> layers_;
    const std::vector<Turning> turnings_;
    const float* const last_norm_;
    std::mutex buffers_;
    std::vector<T> residual_, normal_, given_, qkv_, seen_, inner_;
    std::vector<T> own_, low_;           // of tokens that have an adapter
    std::vector<float> wide_, added_;
    std::vector<const float*> beside_;
    std::vector<std::vector<float>> angles_;
    std::vector<Plan> plans_;
    std::vector<bool> whole_;  // by group: whether tokens see all that lies before them
};

}  // namespace ostinato
