// Every interleaving of the atomic steps of server/native/csrc/pool.cpp, for a few threads,
// phases and calls. Arguments: variant, threads, then the sizes of the phases of each call, calls
// separated by "/". Prints "STATES n" and ends with 0, or prints what is wrong and ends with 1.
//
// Checked in every state: an item is taken once and its phase's only; no item starts before all of
// the phase before are finished; a call ends with everything done and all shares at one phase with
// nothing taken; nobody works for a call that has returned. And from every state the end can still be
// reached: nothing hangs. Phases are 8 bits here and start shortly before they wrap around.
//
// Memory is sequentially consistent (the orderings are ThreadSanitizer's to judge). A load followed by
// its compare-and-swap is one step: tickets never take a value twice, so one that succeeds found what
// was loaded, and one that fails changes nothing. Spinning is left out: who waits looks once, then
// sleeps, and that covers looking later.
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace {

constexpr int kMaxThreads = 3;
constexpr uint8_t kFirstPhase = 254;

// How the protocol is varied: `rising` is the one in use, each other leaves out one of its rules.
enum class Variant { kRising, kStore, kLateReset, kSleepUnannounced };

enum Step : uint8_t {
    kIdle, kJoin, kStart, kNextPhase, kClaim, kHelp, kBody, kReport, kReset, kRaise, kWake, kWait, kAnnounce,
    kSleep, kAsleep, kLeave, kClose, kEnd,
};

struct Thread {
    uint8_t step, after_wake;  // where a wake-up comes back to
    uint8_t index, phase;      // of the next or current for_each; phase is first_phase + those with items
    uint8_t k, raise;          // shares looked at; the share being raised
    uint8_t item, num_finished;
    uint8_t seen, call;
};

struct State {
    uint8_t phase[kMaxThreads], taken[kMaxThreads], asleep[kMaxThreads];
    uint8_t done, first_phase, generation, stopping;
    int8_t members;
    uint8_t claimed[8], finished[8];  // bits per item of each phase of the running call
    Thread threads[kMaxThreads];
};
static_assert(std::is_trivially_copyable_v<State>);

struct Model {
    Variant variant;
    int num_threads;
    std::vector<std::vector<int>> calls;
    std::string fault;

    void fail(const char* what) {
        if (fault.empty()) fault = what;
    }
    bool is_over(const State& s, int id, uint8_t phase) const {
        if (variant == Variant::kStore) return s.phase[id] != phase;
        return static_cast<int8_t>(s.phase[id] - phase) > 0;
    }

    State initial() const {
        State s;
        std::memset(&s, 0, sizeof s);
        for (int i = 0; i < num_threads; ++i) s.phase[i] = kFirstPhase;
        s.members = -1;
        s.threads[0].step = kStart;
        return s;
    }

    // One step of thread `id`; false where it can't move.
    bool advance(State& s, int id) {
        Thread& t = s.threads[id];
        const auto sizes = [&]() -> const std::vector<int>& { return calls[t.call]; };
        switch (t.step) {
            case kStart:  // the caller, outside
                if (t.call == calls.size()) {
                    s.stopping = 1;
                    ++s.generation;
                    t.step = kEnd;
                    return true;
                }
                std::memset(s.claimed, 0, sizeof s.claimed);
                std::memset(s.finished, 0, sizeof s.finished);
                s.first_phase = s.phase[0];
                s.members = 0;
                ++s.generation;  // a separate step in the code; who comes by early only joins early
                t.index = 0;
                t.phase = s.first_phase;
                t.step = kNextPhase;
                return true;
            case kIdle:
                if (s.generation == t.seen) return false;
                t.seen = s.generation;
                t.step = s.stopping ? kEnd : kJoin;
                return true;
            case kJoin:
                if (s.members < 0) {
                    t.step = kIdle;
                    return true;
                }
                ++s.members;
                t.call = s.threads[0].call;
                t.index = 0;
                t.phase = s.first_phase;
                t.step = kNextPhase;
                return true;
            case kNextPhase:  // for_each, up to its first look at the own share
                while (t.index < sizes().size() && sizes()[t.index] == 0) ++t.index;
                if (t.index == sizes().size()) {
                    t.step = id == 0 ? kClose : kLeave;
                } else if (is_over(s, id, t.phase)) {
                    finish_phase(t);
                } else {
                    t.k = t.num_finished = 0;
                    t.step = kClaim;
                }
                return true;
            case kClaim:
                claim(s, t, id);
                return true;
            case kHelp:
                raise(s, t, (id + t.k) % num_threads, t.phase, kClaim);
                return true;
            case kBody:
                s.finished[t.index] |= static_cast<uint8_t>(1 << t.item);
                ++t.num_finished;
                t.step = kClaim;
                return true;
            case kReport:
                s.done = static_cast<uint8_t>(s.done + t.num_finished);
                t.raise = 1;
                if (s.done < sizes()[t.index]) t.step = kWait;
                else t.step = variant == Variant::kLateReset ? kRaise : kReset;
                return true;
            case kReset:
                s.done = 0;
                if (variant == Variant::kLateReset) finish_phase(t);
                else t.step = kRaise;
                return true;
            case kRaise:
                if (t.raise > num_threads) {
                    if (variant == Variant::kLateReset) t.step = kReset;
                    else finish_phase(t);
                    return true;
                }
                raise(s, t, (id + t.raise) % num_threads, static_cast<uint8_t>(t.phase + 1), kRaise);
                return true;
            case kWake: {
                const int owner = t.after_wake == kClaim ? (id + t.k) % num_threads : (id + t.raise) % num_threads;
                if (s.asleep[owner] && s.threads[owner].step == kAsleep) s.threads[owner].step = kSleep;
                if (t.after_wake == kRaise) ++t.raise;
                t.step = t.after_wake;
                return true;
            }
            case kWait:
                if (is_over(s, id, t.phase)) finish_phase(t);
                else if (variant == Variant::kStore) return look_again(s, t, id);
                else t.step = kAnnounce;
                return true;
            case kAnnounce:
                if (variant != Variant::kSleepUnannounced) s.asleep[id] = 1;
                t.step = kSleep;
                return true;
            case kSleep:  // the kernel compares the phase once more, then takes the thread off its core
                if (is_over(s, id, t.phase)) {
                    s.asleep[id] = 0;
                    finish_phase(t);
                } else {
                    t.step = kAsleep;
                }
                return true;
            case kLeave:
                --s.members;
                t.step = kIdle;
                return true;
            case kClose:
                if (s.members != 0) return false;
                s.members = -1;
                check_closed(s);
                ++t.call;
                t.step = kStart;
                return true;
            default: return false;  // kAsleep, kEnd
        }
    }

    static void finish_phase(Thread& t) {
        ++t.phase;
        ++t.index;
        t.k = t.num_finished = t.item = t.raise = 0;
        t.step = kNextPhase;
    }

    // The protocol that stored tickets looked at all shares again and again.
    bool look_again(const State& s, Thread& t, int id) const {
        for (int owner = 0; owner < num_threads; ++owner) {
            if (s.phase[owner] != t.phase || s.taken[owner] >= share_size(t, owner)) continue;
            t.k = static_cast<uint8_t>((owner + num_threads - id) % num_threads);
            t.num_finished = 0;
            t.step = kClaim;
            return true;
        }
        return false;
    }

    int share_size(const Thread& t, int owner) const {
        const int n = calls[t.call][t.index];
        return n * (owner + 1) / num_threads - n * owner / num_threads;
    }

    void claim(State& s, Thread& t, int id) {
        if (t.k == num_threads) {
            t.step = t.num_finished > 0 ? kReport : kWait;
            return;
        }
        const int owner = (id + t.k) % num_threads;
        const auto ahead = static_cast<int8_t>(s.phase[owner] - t.phase);
        if (ahead < 0 && variant != Variant::kStore) {
            t.step = kHelp;
        } else if (ahead != 0 || s.taken[owner] >= share_size(t, owner)) {
            ++t.k;
        } else {
            const int item = calls[t.call][t.index] * owner / num_threads + s.taken[owner]++;
            t.item = static_cast<uint8_t>(item);
            t.step = kBody;
            if (s.members < 0 || t.call != s.threads[0].call) fail("works for a call that has returned");
            if (s.claimed[t.index] >> item & 1) fail("an item is taken twice");
            s.claimed[t.index] |= static_cast<uint8_t>(1 << item);
            for (int p = 0; p < t.index; ++p) {
                if (s.finished[p] != (1 << calls[t.call][static_cast<size_t>(p)]) - 1) fail("a phase starts too early");
            }
        }
    }

    void raise(State& s, Thread& t, int owner, uint8_t phase, Step next) const {
        t.step = kWake;
        t.after_wake = next;
        if (variant != Variant::kStore && static_cast<int8_t>(s.phase[owner] - phase) >= 0) return;
        s.phase[owner] = phase;
        s.taken[owner] = 0;
    }

    void check_closed(const State& s) {
        const auto& sizes = calls[s.threads[0].call];
        for (size_t p = 0; p < sizes.size(); ++p) {
            if (s.finished[p] != (1 << sizes[p]) - 1) fail("a call returns with items undone");
        }
        if (s.done != 0) fail("a call returns with a count left over");
        for (int i = 0; i < num_threads; ++i) {
            if (s.phase[i] != s.phase[0] || s.taken[i] != 0) fail("a call returns with shares apart");
        }
    }

    bool is_end(const State& s) const {
        for (int i = 0; i < num_threads; ++i) {
            if (s.threads[i].step != kEnd) return false;
        }
        return true;
    }
};

int explore(Model& model) {
    std::unordered_map<std::string, uint32_t> numbers;
    std::vector<State> states;
    std::vector<std::array<uint32_t, kMaxThreads>> successors;
    const auto number_of = [&](const State& s) {
        std::string key(sizeof s, '\0');
        std::memcpy(key.data(), &s, sizeof s);
        const auto [at, is_new] = numbers.emplace(std::move(key), static_cast<uint32_t>(states.size()));
        if (is_new) states.push_back(s);
        return at->second;
    };
    number_of(model.initial());
    for (uint32_t i = 0; i < states.size(); ++i) {
        successors.emplace_back();
        successors.back().fill(i);
        for (int id = 0; id < model.num_threads; ++id) {
            State next = states[i];
            if (model.advance(next, id)) successors[i][static_cast<size_t>(id)] = number_of(next);
            if (!model.fault.empty()) {
                std::printf("WRONG: %s\n", model.fault.c_str());
                return 1;
            }
        }
    }
    // Backwards from the end: who isn't reached can never end.
    std::vector<std::vector<uint32_t>> sources(states.size());
    for (uint32_t i = 0; i < states.size(); ++i) {
        for (const uint32_t next : successors[i]) sources[next].push_back(i);
    }
    std::vector<bool> can_end(states.size());
    std::vector<uint32_t> open;
    for (uint32_t i = 0; i < states.size(); ++i) {
        if (model.is_end(states[i])) open.push_back(i), can_end[i] = true;
    }
    while (!open.empty()) {
        const uint32_t i = open.back();
        open.pop_back();
        for (const uint32_t source : sources[i]) {
            if (!can_end[source]) open.push_back(source), can_end[source] = true;
        }
    }
    for (uint32_t i = 0; i < states.size(); ++i) {
        if (!can_end[i]) {
            std::printf("HANG: a state from which the calls never end\n");
            return 1;
        }
    }
    std::printf("STATES %zu\n", states.size());
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc < 4) return 2;
    const std::string_view variant = argv[1];
    Model model{};
    if (variant == "rising") model.variant = Variant::kRising;
    else if (variant == "store") model.variant = Variant::kStore;
    else if (variant == "late-reset") model.variant = Variant::kLateReset;
    else if (variant == "sleep-unannounced") model.variant = Variant::kSleepUnannounced;
    else return 2;
    model.num_threads = std::atoi(argv[2]);
    if (model.num_threads < 2 || model.num_threads > kMaxThreads) return 2;
    model.calls.emplace_back();
    for (int i = 3; i < argc; ++i) {
        if (std::string_view(argv[i]) == "/") model.calls.emplace_back();
        else model.calls.back().push_back(std::atoi(argv[i]));
    }
    return explore(model);
}
