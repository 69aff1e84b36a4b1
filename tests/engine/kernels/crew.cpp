// Threads that find no memory, and children of forks: see test_native_threads.py.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <sys/wait.h>
#include <unistd.h>

#include "crew.h"

using namespace ostinato;

static void expect(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "not so: %s\n", what);
    std::exit(1);
}

static bool thrown(const std::function<void()>& work) {
    try {
        work();
        return false;
    } catch (const std::bad_alloc&) {
        return true;
    }
}

// Squares; whoever is not the caller finds no memory, or nobody does, where `lacking` says so.
struct Squares {
    int64_t* to;
    int lacking;  // -1: nobody finds any, 0: all do, 1: only hands find none

    void operator()(int begin, int end) const {
        if (lacking < 0) throw std::bad_alloc();
        for (int i = begin; i < end; ++i) to[i] = int64_t{i} * i;
    }
    void copy(Aside&) const {}
    void aside(int begin, int end, Aside& memory) const {
        if (lacking) throw std::bad_alloc();
        memory.made.resize((end - begin) * sizeof(int64_t));
        for (int i = begin; i < end; ++i) reinterpret_cast<int64_t*>(memory.made.data())[i - begin] = int64_t{i} * i;
    }
    void commit(int begin, int end, const Aside& memory) const {
        std::memcpy(to + begin, memory.made.data(), (end - begin) * sizeof(int64_t));
    }
};

static std::atomic<bool> torn{false};

// Copies of numbers that are gone when the caller goes on; hands take their time, first with copying and then after it.
struct Passing {
    const int* from;  // [MANY] ones
    int* to;
    static constexpr int MANY = 64;

    void operator()(int begin, int end) const { std::copy(from + begin, from + end, to + begin); }
    void copy(Aside& memory) const {
        usleep(50);
        memory.given.assign(reinterpret_cast<const char*>(from), reinterpret_cast<const char*>(from + MANY));
    }
    void aside(int begin, int end, Aside& memory) const {
        usleep(50);
        const auto* own = reinterpret_cast<const int*>(memory.given.data());
        for (int i = begin; i < end; ++i)
            if (own[i] != 1) torn = true;
        memory.made.assign(reinterpret_cast<const char*>(own + begin), reinterpret_cast<const char*>(own + end));
    }
    void commit(int begin, int end, const Aside& memory) const {
        std::memcpy(to + begin, memory.made.data(), (end - begin) * sizeof(int));
    }
};

static void reads_nothing_that_is_gone(Crew& crew) {
    std::vector<int> from(Passing::MANY), to(Passing::MANY);
    for (int round = 0; round < 500; ++round) {
        std::fill(from.begin(), from.end(), 1);
        std::fill(to.begin(), to.end(), 0);
        crew.race(Passing::MANY, Passing{from.data(), to.data()});
        std::fill(from.begin(), from.end(), -1);
        expect(std::count(to.begin(), to.end(), 1) == Passing::MANY, "each number is copied");
    }
    Crew::settle();
    expect(!torn, "hands that are done without read nothing but their copies");
}

static void works(Crew& crew) {
    constexpr int MANY = 500;
    std::vector<int64_t> found(MANY, -1);
    crew.race(MANY, Squares{found.data(), 0});
    for (int i = 0; i < MANY; ++i) expect(found[i] == int64_t{i} * i, "each piece is done");
    std::atomic<int> sum{0};
    crew.share(MANY, [&](int piece) { sum += piece; });
    expect(sum == MANY * (MANY - 1) / 2, "each piece is done once");
}

int main() {
    Crew crew(4);
    std::vector<int64_t> found(100);
    for (int round = 0; round < 300; ++round) {
        std::atomic<int> done{0};
        expect(thrown([&] {
                   crew.share(100, [&](int piece) {
                       if (piece == round % 100) throw std::bad_alloc();
                       ++done;
                   });
               }),
               "the caller hears of a piece that nobody had memory for");
        expect(done == 99, "the other pieces are over by then");
        expect(thrown([&] { crew.race(100, Squares{found.data(), -1}); }), "so with copies");
        thrown([&] { crew.race(100, Squares{found.data(), 1}); });  // it depends on who takes what
        works(crew);
    }
    reads_nothing_that_is_gone(crew);
    const pid_t child = fork();
    if (child == 0) {
        Crew own(4);
        for (int round = 0; round < 100; ++round) works(own);
        Crew::settle();
        std::_Exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    expect(WIFEXITED(status) && WEXITSTATUS(status) == 0, "a child of a fork works with threads of its own");
    Crew::settle();
    return 0;
}
