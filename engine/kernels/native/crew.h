// Threads that work through an operation's pieces together.
//
// An operation is over when its pieces are done, not when its threads have come by: where the system takes a thread
// away from its core, the others do the rest. What it had in its hands they wait for where pieces are work; where they
// are short (`race`) whoever called does them again: a hand works on copies, and its results count if it brings them
// first. Nobody is pinned, and who waits gives up its core after some microseconds.
//
// A thread that finds no memory leaves its piece undone and says so: `std::bad_alloc` is thrown where the operation was
// called, when no thread looks at it any more.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <deque>
#include <exception>
#include <linux/futex.h>
#include <mutex>
#include <new>
#include <pthread.h>
#include <sys/syscall.h>
#include <system_error>
#include <type_traits>
#include <thread>
#include <unistd.h>
#include <vector>
#include <immintrin.h>

namespace ostinato {

// How often a waiting thread looks before it sleeps: some 50 microseconds.
constexpr int PATIENCE = 2000;

// How often it looks before it does a short piece itself: some 4 microseconds.
constexpr int SHORT = 150;

// Memory of a hand's own, for what it works on and what comes of it.
struct Aside {
    std::vector<char> given, made;
    uint64_t generation = 0;  // of what was given
};

class Crew {
  public:
    explicit Crew(int threads) {
        for (int i = 1; i < threads; ++i) hands_.emplace_back();
        try {
            for (Hand& hand : hands_) hand.thread = std::thread([this, &hand] { serve(hand); });
        } catch (const std::system_error&) {  // the system gives no more threads: those that are there do it
            while (!hands_.empty() && !hands_.back().thread.joinable()) hands_.pop_back();
        }
    }

    ~Crew() {
        over_.store(true);
        state_.fetch_add(GENERATION);
        wake(state_);
        for (Hand& hand : hands_) hand.thread.join();
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

    // The same for work of microseconds: hands get a copy. It has `copy(Aside&)`, which copies what it reads that may be
    // gone when this returns, `aside(begin, end, Aside&)`, which does a part by that copy alone and without touching what
    // others read, and `commit(begin, end, const Aside&)`, which puts it there.
    template <typename Work> void race(int pieces, const Work& work) {
        static_assert(std::is_trivially_copyable_v<Work> && sizeof(Work) <= LARGEST);
        Copied copied{sizeof(Work)};
        copied.copy = [](const void* own, Aside& memory) { static_cast<const Work*>(own)->copy(memory); };
        copied.aside = [](const void* own, int begin, int end, Aside& memory) {
            static_cast<const Work*>(own)->aside(begin, end, memory);
        };
        copied.commit = [](const void* own, int begin, int end, const Aside& memory) {
            static_cast<const Work*>(own)->commit(begin, end, memory);
        };
        run(pieces, 2 * threads(), work, copied);
    }

    // Wait until nobody works any more on what was done without him: then memory that he may look at can go.
    static void settle() {
        while (strays_.load(std::memory_order_acquire) > 0) std::this_thread::yield();
    }

  private:
    // How a hand does work that others may do again; `size` 0: they may not.
    struct Copied {
        size_t size = 0;
        void (*copy)(const void*, Aside&) = nullptr;
        void (*aside)(const void*, int, int, Aside&) = nullptr;
        void (*commit)(const void*, int, int, const Aside&) = nullptr;
    };

    // `shares`: a thread takes that part of what is left; 0: one piece after the other.
    template <typename Work> void run(int pieces, int shares, const Work& work, Copied copied = {}) {
        std::unique_lock alone(sharing_, std::try_to_lock);
        if (pieces <= 1 || hands_.empty() || !alone) {  // somebody else's threads have them: do it oneself
            if (pieces > 0) work(0, pieces);
            return;
        }
        call_ = [](const void* own, int begin, int end) { (*static_cast<const Work*>(own))(begin, end); };
        own_ = &work;
        pieces_ = pieces;
        shares_ = shares;
        copied_ = copied.size;
        copy_ = copied.copy;
        aside_ = copied.aside;
        commit_ = copied.commit;
        left_.store(pieces, std::memory_order_relaxed);
        lacking_.store(false, std::memory_order_relaxed);
        // the generation tells the hands that there is something new; the low half counts pieces that are taken
        uint64_t next = (state_.load(std::memory_order_relaxed) & ~TAKEN) + GENERATION;
        state_.store(next);
        if (asleep_.load() > 0) wake(state_);
        labour(next, nullptr);
        for (int looks = 0; left_.load(std::memory_order_acquire) > 0; ++looks) {
            if (looks < PATIENCE) _mm_pause();
            else std::this_thread::yield();
            if (copied.size && looks >= SHORT)
                for (Hand& hand : hands_) take_over(hand, work);
        }
        // whoever still holds an old look at the count takes nothing of what is written next
        state_.store(next | TAKEN);
        if (lacking_.load(std::memory_order_acquire)) throw std::bad_alloc();
    }

    // Do a piece, unless there is no memory for it; the others must be done or given up before anybody is told.
    template <typename Do> bool done(const Do& piece) {
        try {
            piece();
            return true;
        } catch (const std::exception&) {
            return false;
        }
    }

    static constexpr size_t LARGEST = 192;
    static constexpr uint64_t GENERATION = uint64_t{1} << 32;
    static constexpr uint64_t TAKEN = GENERATION - 1;

    enum State { idle, working, committing, done_without };

    // A thread, and what it has in its hands.
    struct Hand {
        alignas(64) std::atomic<State> state{idle};
        int begin = 0, end = 0;
        alignas(64) char work[LARGEST];
        Aside memory;
        std::thread thread;
    };

    template <typename Work> void take_over(Hand& hand, const Work& work) {
        State now = working;
        if (hand.state.load(std::memory_order_relaxed) != working) return;
        strays_.fetch_add(1, std::memory_order_acq_rel);
        if (!hand.state.compare_exchange_strong(now, done_without, std::memory_order_acq_rel)) {
            strays_.fetch_sub(1, std::memory_order_acq_rel);
            return;
        }
        if (!done([&] { work(hand.begin, hand.end); })) lacking_.store(true, std::memory_order_relaxed);
        left_.fetch_sub(hand.end - hand.begin, std::memory_order_acq_rel);
    }

    // Take pieces of one generation until there are none; a newer one is another call's.
    void labour(uint64_t generation, Hand* hand) {
        uint64_t seen = state_.load(std::memory_order_acquire);
        while ((seen & ~TAKEN) == (generation & ~TAKEN)) {
            // read after the generation was seen, and checked by taking a piece of it
            auto call = call_.load();
            auto own = own_.load();
            auto copy = copy_.load();
            auto aside = aside_.load();
            auto commit = commit_.load();
            const size_t copied = copied_.load();
            const int shares = shares_.load();
            const int piece = static_cast<int>(std::min<uint64_t>(seen & TAKEN, INT32_MAX)), left = pieces_.load() - piece;
            if (left <= 0) return;
            const int many = shares ? std::max(1, left / shares) : 1;
            if (!state_.compare_exchange_weak(seen, seen + many, std::memory_order_acq_rel)) continue;
            if (hand && copied) {
                // nobody can do this without the hand before it says that it works, so what it copies is still there
                std::memcpy(hand->work, own, copied);
                hand->begin = piece;
                hand->end = piece + many;
                if (hand->memory.generation != (generation & ~TAKEN)) hand->memory.given.clear();
                hand->memory.generation = generation & ~TAKEN;
                bool made = done([&] { copy(hand->work, hand->memory); });
                hand->state.store(working, std::memory_order_release);
                if (made) made = done([&] { aside(hand->work, piece, piece + many, hand->memory); });
                if (!made) hand->memory.given.clear();  // it may be there in part
                State now = working;
                if (hand->state.compare_exchange_strong(now, committing, std::memory_order_acq_rel)) {
                    if (made) commit(hand->work, piece, piece + many, hand->memory);
                    else lacking_.store(true, std::memory_order_relaxed);
                    left_.fetch_sub(many, std::memory_order_acq_rel);
                } else strays_.fetch_sub(1, std::memory_order_acq_rel);
                hand->state.store(idle, std::memory_order_release);
            } else {
                if (!done([&] { call(own, piece, piece + many); })) lacking_.store(true, std::memory_order_relaxed);
                left_.fetch_sub(many, std::memory_order_acq_rel);
            }
            seen = state_.load(std::memory_order_acquire);
        }
    }

    void serve(Hand& hand) {
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
            labour(now, &hand);
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
    std::atomic<bool> lacking_{false};  // whether a thread found no memory for a piece
    std::atomic<int> pieces_{0};
    std::atomic<int> shares_{0};
    std::atomic<size_t> copied_{0};
    std::atomic<void (*)(const void*, Aside&)> copy_{nullptr};
    std::atomic<void (*)(const void*, int, int, Aside&)> aside_{nullptr};
    std::atomic<void (*)(const void*, int, int, const Aside&)> commit_{nullptr};
    // hands of all crews whose pieces were done without them, and who do not know it yet
    static inline std::atomic<int> strays_{0};
    // a child of a fork has none of the threads that strays are
    static inline const int forgets_ = pthread_atfork(nullptr, nullptr, [] { strays_.store(0); });
    std::atomic<void (*)(const void*, int, int)> call_{nullptr};
    std::atomic<const void*> own_{nullptr};
    std::mutex sharing_;
    const pid_t process_ = getpid();
    std::deque<Hand> hands_;
};

}  // namespace ostinato
