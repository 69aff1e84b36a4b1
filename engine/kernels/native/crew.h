// Threads that work through an operation's pieces together.
//
// An operation is over when its pieces are done, not when its threads have come by: a thread that the system has
// taken away from its core holds up nobody but for the piece in its hands, and the others do the rest. Nobody is
// pinned, and who waits gives up its core after some microseconds.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <ctime>
#include <linux/futex.h>
#include <mutex>
#include <sys/syscall.h>
#include <system_error>
#include <thread>
#include <unistd.h>
#include <vector>
#include <immintrin.h>

namespace ostinato {

// How often a waiting thread looks before it sleeps: some 50 microseconds.
constexpr int PATIENCE = 2000;

class Crew {
  public:
    explicit Crew(int threads) {
        try {
            for (int i = 1; i < threads; ++i) hands_.emplace_back([this] { serve(); });
        } catch (const std::system_error&) {  // the system gives no more threads: those that are there do it
        }
    }

    ~Crew() {
        over_.store(true);
        state_.fetch_add(GENERATION);
        wake(state_);
        for (auto& hand : hands_) hand.join();
    }

    Crew(const Crew&) = delete;
    Crew& operator=(const Crew&) = delete;

    // Whether its threads are this process's: a child of a fork has its memory and none of them.
    bool here() const { return process_ == getpid(); }

    int threads() const { return static_cast<int>(hands_.size()) + 1; }

    // Call work(piece) for every piece from 0 on, each once, and return when all are done.
    template <typename Work> void share(int pieces, const Work& work) {
        run(pieces, 0, [&](int begin, int end) {
            for (int piece = begin; piece < end; ++piece) work(piece);
        });
    }

    // Call work(begin, end) for parts of what is to be done, and return when all of it is. Parts are large at first and
    // small at last: what lies behind one another in memory is read faster, and all are done at about the same time.
    template <typename Work> void part(int pieces, const Work& work) { run(pieces, 3 * threads() / 2, work); }

  private:
    // `shares`: a thread takes that part of what is left; 0: one piece after the other.
    template <typename Work> void run(int pieces, int shares, const Work& work) {
        std::unique_lock alone(sharing_, std::try_to_lock);
        if (pieces <= 1 || hands_.empty() || !alone) {  // somebody else's threads have them: do it oneself
            if (pieces > 0) work(0, pieces);
            return;
        }
        call_ = [](const void* own, int begin, int end) { (*static_cast<const Work*>(own))(begin, end); };
        own_ = &work;
        pieces_ = pieces;
        shares_ = shares;
        left_.store(pieces, std::memory_order_relaxed);
        // the generation tells the hands that there is something new; the low half counts pieces that are taken
        uint64_t next = (state_.load(std::memory_order_relaxed) & ~TAKEN) + GENERATION;
        state_.store(next);
        if (asleep_.load() > 0) wake(state_);
        labour(next);
        for (int looks = 0; left_.load(std::memory_order_acquire) > 0; ++looks) {
            if (looks < PATIENCE) _mm_pause();
            else std::this_thread::yield();
        }
        // whoever still holds an old look at the count takes nothing of what is written next
        state_.store(next | TAKEN);
    }

    static constexpr uint64_t GENERATION = uint64_t{1} << 32;
    static constexpr uint64_t TAKEN = GENERATION - 1;

    // Take pieces of one generation until there are none; a newer one is another call's.
    void labour(uint64_t generation) {
        uint64_t seen = state_.load(std::memory_order_acquire);
        while ((seen & ~TAKEN) == (generation & ~TAKEN)) {
            // read after the generation was seen, and checked by taking a piece of it
            auto call = call_.load();
            auto own = own_.load();
            const int shares = shares_.load();
            const int piece = static_cast<int>(std::min<uint64_t>(seen & TAKEN, INT32_MAX)), left = pieces_.load() - piece;
            if (left <= 0) return;
            const int many = shares ? std::max(1, left / shares) : 1;
            if (!state_.compare_exchange_weak(seen, seen + many, std::memory_order_acq_rel)) continue;
            call(own, piece, piece + many);
            left_.fetch_sub(many, std::memory_order_acq_rel);
            seen = state_.load(std::memory_order_acquire);
        }
    }

    void serve() {
        uint64_t known = 0;
        while (!over_.load(std::memory_order_relaxed)) {
            uint64_t now = state_.load(std::memory_order_acquire);
            for (int looks = 0; (now & ~TAKEN) == known && looks < PATIENCE; ++looks) {
                _mm_pause();
                now = state_.load(std::memory_order_acquire);
            }
            if ((now & ~TAKEN) == known) {
                asleep_.fetch_add(1);
                // the upper half changes with every generation; the futex is that half
                syscall(SYS_futex, half(state_), FUTEX_WAIT_PRIVATE, static_cast<uint32_t>(known >> 32), nullptr,
                        nullptr, 0);
                asleep_.fetch_sub(1);
                continue;
            }
            known = now & ~TAKEN;
            labour(now);
        }
    }

    static uint32_t* half(std::atomic<uint64_t>& state) { return reinterpret_cast<uint32_t*>(&state) + 1; }
    static void wake(std::atomic<uint64_t>& state) {
        syscall(SYS_futex, half(state), FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0);
    }

    alignas(64) std::atomic<uint64_t> state_{0};
    alignas(64) std::atomic<int> left_{0};
    alignas(64) std::atomic<int> asleep_{0};
    std::atomic<bool> over_{false};
    std::atomic<int> pieces_{0};
    std::atomic<int> shares_{0};
    std::atomic<void (*)(const void*, int, int)> call_{nullptr};
    std::atomic<const void*> own_{nullptr};
    std::mutex sharing_;
    const pid_t process_ = getpid();
    std::vector<std::thread> hands_;
};

}  // namespace ostinato
