// Matrix products in blocks, shared by the calling thread and a few workers.
//
// A BLAS with threads of its own waits for all of them: where another program takes one core away,
// each product waits until that core comes back. Here a product is cut into blocks of its result,
// each one single-threaded call of OpenBLAS, and whoever is free takes the next one. Nobody waits
// for a worker that has not begun, so that a core which is taken away costs its share only.
//
// Blocks depend on the product's shape alone, and no sum is cut: a product has the same bits with
// any number of threads.

#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdint>

using Gemm = void(int, int, int, int, int, int, float, const float*, int, const float*, int, float,
                  float*, int);
using Gemv = void(int, int, int, int, float, const float*, int, const float*, int, float, float*,
                  int);
using Limit = void(int);
using Run = void(const void* what, long block);

namespace {

// ---- The pool ----------------------------------------------------------------------------------

// A worker looks for work as long as products follow one another, and sleeps between steps: to wake
// it takes some 50 us on a virtual machine, and while it looks it takes time from other programs.
constexpr std::chrono::microseconds WORKER_LOOKS{50};
// A block that another thread is at mostly ends within this. Else that thread has lost its core,
// and gets this one as soon as the caller sleeps.
constexpr std::chrono::microseconds CALLER_LOOKS{20};
constexpr int SLOTS = 16;  // calls at one time that may have help; others do their blocks alone

struct Task {
  Run* run;
  const void* what;
  long blocks;
};

// One call's work. A worker may look at a slot just as its call ends and another one begins there.
// So a block is taken by one exchange of the ticket, whose upper half numbers the calls: it fails
// where the task that was read is not the ticket's.
struct alignas(64) Slot {
  std::atomic<uint64_t> ticket{0};  // number of the call << 32 | blocks that nobody has taken
  std::atomic<const Task*> task{nullptr};
  std::atomic<int> unfinished{0};  // blocks; a futex
  std::atomic<bool> asleep{false};  // the caller
  std::atomic<bool> used{false};
};

Slot slots[SLOTS];
std::atomic<int> threads{1};   // that work at one time
std::atomic<int> active{0};    // threads at blocks, callers included
std::atomic<int> workers{0};   // that exist
std::atomic<int> sleepers{0};  // workers
std::atomic<int> bell{0};      // counts the calls; a futex

void sleep_while(std::atomic<int>& word, int value) {
  syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void wake(std::atomic<int>& word, int count) {
  syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, count, nullptr, nullptr, 0);
}

template <class Ready>
bool comes(Ready ready, std::chrono::microseconds within) {
  auto end = std::chrono::steady_clock::now() + within;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      asm volatile("yield");
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

bool do_block(Slot& slot) {
  uint64_t ticket = slot.ticket.load(std::memory_order_acquire);
  while (uint32_t left = uint32_t(ticket)) {
    const Task* task = slot.task.load(std::memory_order_relaxed);
    if (!slot.ticket.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acq_rel,
                                           std::memory_order_acquire))
      continue;
    task->run(task->what, task->blocks - long(left));
    // The task is the caller's, who may be gone after this; the slot stays.
    if (slot.unfinished.fetch_sub(1) == 1 && slot.asleep.load()) wake(slot.unfinished, INT_MAX);
    return true;
  }
  return false;
}

void* work(void*) {
  for (;;) {
    int heard = bell.load();
    active.fetch_add(1);
    for (auto& slot : slots)
      while (active.load(std::memory_order_relaxed) <= threads.load() && do_block(slot)) {
      }
    active.fetch_sub(1);
    auto rung = [&] { return bell.load(std::memory_order_relaxed) != heard; };
    if (comes(rung, WORKER_LOOKS)) continue;
    sleepers.fetch_add(1);
    sleep_while(bell, heard);  // returns at once where it has rung since
    sleepers.fetch_sub(1);
  }
}

// Workers are started by the first call that needs them, also after a fork, which leaves them
// behind. Signals go to Python's threads.
void hire(int wanted) {
  int have = workers.load();
  while (have < wanted) {
    if (!workers.compare_exchange_weak(have, have + 1)) continue;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    bool started = !pthread_create(&thread, nullptr, work, nullptr);
    if (started) pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    if (!started) {
      workers.fetch_sub(1);
      return;
    }
  }
}

void forget_workers() {
  workers = active = sleepers = 0;
  for (auto& slot : slots) {
    slot.ticket = slot.ticket.load() >> 32 << 32;
    slot.asleep = slot.used = false;
  }
}

Slot* free_slot() {
  for (auto& slot : slots)
    if (!slot.used.load(std::memory_order_relaxed) && !slot.used.exchange(true)) return &slot;
  return nullptr;
}

// Runs blocks 0 to `blocks` - 1 in any order, some at one time, and returns when all are done.
void share(Run* run, const void* what, long blocks) {
  int limit = threads.load();
  Slot* slot = limit > 1 && blocks > 1 ? free_slot() : nullptr;
  if (!slot) {
    for (long block = 0; block < blocks; ++block) run(what, block);
    return;
  }
  hire(limit - 1);
  active.fetch_add(1);
  Task task{run, what, blocks};
  slot->unfinished.store(int(blocks));
  slot->task.store(&task);
  slot->ticket.store(((slot->ticket.load() >> 32) + 1) << 32 | uint64_t(blocks));
  bell.fetch_add(1);
  if (sleepers.load()) wake(bell, int(std::min<long>(blocks, limit)) - 1);
  while (do_block(*slot)) {
  }
  auto done = [&] { return slot->unfinished.load(std::memory_order_acquire) == 0; };
  if (!comes(done, CALLER_LOOKS)) {
    slot->asleep.store(true);
    while (int left = slot->unfinished.load()) sleep_while(slot->unfinished, left);
    slot->asleep.store(false);
  }
  active.fetch_sub(1);
  slot->used.store(false, std::memory_order_release);
}

// ---- Products ----------------------------------------------------------------------------------

constexpr int ROW_MAJOR = 101, PLAIN = 111, TRANSPOSED = 112;  // CBLAS's names
constexpr int GRAIN = 16;  // rows and columns of blocks, but for the last ones, are multiples of it
// Each block packs its rows and columns for itself, so that few large ones are less work and many
// small ones are dealt out better. Four do for four cores; large products have more.
constexpr long FEWEST = 4;
constexpr double FLOPS = 600e6;     // of a block, about
constexpr double ROUNDED_FLOPS = 1600e6;  // of one whose operands are rounded when they are packed
constexpr double WHOLE_FLOPS = 8e6;  // below which a product is done before a worker is there
constexpr int SYMMETRIC = 128;  // rows and columns of a block of a symmetric product, at least
constexpr double NUMBERS = 1e6;       // of a matrix that one block multiplies with a vector, about
constexpr double WHOLE_NUMBERS = 128e3;

Gemm* gemm;
Gemv* gemv;
std::atomic<bool> rounds{false};  // operands of products to bfloat16
Limit* use_one_thread;  // of an OpenBLAS on OpenMP, which counts for each calling thread; else null

void prepare_thread() {
  static thread_local bool prepared = false;
  if (!prepared && use_one_thread) use_one_thread(1);
  prepared = true;
}

long divide_up(long a, long b) { return (a + b - 1) / b; }

int part(int length, long count) { return int(divide_up(divide_up(length, count), GRAIN) * GRAIN); }

long pieces(double work, double of_one) {
  return FEWEST * std::max(1L, long(work / (FEWEST * of_one) + 0.5));
}

struct Product {
  int ta, tb, m, n, k;
  float alpha;
  const float* a;
  int lda;
  const float* b;
  int ldb;
  float beta;
  float* c;
  int ldc;
  bool rounded;  // operands, to bfloat16
  int rows, columns;  // of a block
};

// Rows from i and columns from j of a product, by the calling thread.
void multiply_block(const Product& p, long i, long j, int rows, int columns) {
  const float* a = p.a + (p.ta == PLAIN ? i * p.lda : i);
  const float* b = p.b + (p.tb == PLAIN ? j : j * p.ldb);
  float* c = p.c + i * p.ldc + j;
  if (p.rounded) {
    bfloat16::Operand left{a, p.ta == PLAIN ? p.lda : 1, p.ta == PLAIN ? 1 : p.lda};
    bfloat16::Operand right{b, p.tb == PLAIN ? 1 : p.ldb, p.tb == PLAIN ? p.ldb : 1};
    bfloat16::multiply(left, right, rows, columns, p.k, p.alpha, p.beta, c, p.ldc);
    return;
  }
  prepare_thread();
  gemm(ROW_MAJOR, p.ta, p.tb, rows, columns, p.k, p.alpha, a, p.lda, b, p.ldb, p.beta, c, p.ldc);
}

void product_block(const void* what, long block) {
  auto& p = *static_cast<const Product*>(what);
  long across = divide_up(p.n, p.columns);
  long i = block / across * p.rows, j = block % across * p.columns;
  multiply_block(p, i, j, int(std::min<long>(p.rows, p.m - i)),
                 int(std::min<long>(p.columns, p.n - j)));
}

void multiply(Product p) {
  double flops = 2.0 * p.m * p.n * p.k;
  p.rows = std::max(p.m, 1), p.columns = std::max(p.n, 1);
  if (flops >= WHOLE_FLOPS) {
    long count = pieces(flops, p.rounded ? ROUNDED_FLOPS : FLOPS);
    double least = 2;  // of what is packed for each number of the result
    for (long down = 1; down <= count; ++down) {
      if (count % down) continue;
      int rows = part(p.m, down), columns = part(p.n, count / down);
      double packed = 1.0 / std::min(rows, p.m) + 1.0 / std::min(columns, p.n);
      if (packed < least) least = packed, p.rows = rows, p.columns = columns;
    }
  }
  share(product_block, &p, divide_up(p.m, p.rows) * divide_up(p.n, p.columns));
}

// A matrix times its own transpose: the lower half is multiplied, and mirrored. Block (i, j) of the
// lower triangle has number i (i + 1) / 2 + j.
void symmetric_block(const void* what, long block) {
  auto& p = *static_cast<const Product*>(what);
  long row = 0;
  while (block > row) block -= ++row;
  long i = row * p.rows, j = block * p.rows;
  int rows = int(std::min<long>(p.rows, p.m - i)), columns = int(std::min<long>(p.rows, p.m - j));
  float* c = p.c + i * p.ldc + j;
  multiply_block(p, i, j, rows, columns);
  float* mirrored = p.c + j * p.ldc + i;
  for (int y = 0; y < columns; ++y)
    for (int x = i == j ? y : 0; x < rows; ++x)
      mirrored[y * long(p.ldc) + x] = c[x * long(p.ldc) + y];
}

bool of_itself(const Product& p) {
  return p.a == p.b && p.lda == p.ldb && p.ta != p.tb && p.m == p.n && p.beta == 0 &&
         p.m >= 2 * SYMMETRIC;
}

void multiply_by_itself(Product p) {
  // Of about one size: OpenBLAS sums small blocks in other orders, by how they lie in memory.
  p.rows = part(p.m, p.m / SYMMETRIC);
  long down = divide_up(p.m, p.rows);
  share(symmetric_block, &p, down * (down + 1) / 2);
}

// y = alpha A x + beta y, A row-major (rows, columns), or with its transpose.
struct WithVector {
  int ta, rows, columns;
  float alpha;
  const float* a;
  int lda;
  const float* x;
  int incx;
  float beta;
  float* y;
  int incy;
  int part;  // of y that a block computes
};

void vector_block(const void* what, long block) {
  auto& p = *static_cast<const WithVector*>(what);
  bool plain = p.ta == PLAIN;
  long i = block * p.part;
  int length = int(std::min<long>(p.part, (plain ? p.rows : p.columns) - i));
  prepare_thread();
  gemv(ROW_MAJOR, p.ta, plain ? length : p.rows, plain ? p.columns : length, p.alpha,
       p.a + (plain ? i * p.lda : i), p.lda, p.x, p.incx, p.beta, p.y + i * p.incy, p.incy);
}

void multiply(WithVector p) {
  int length = p.ta == PLAIN ? p.rows : p.columns;
  double numbers = double(p.rows) * p.columns;
  p.part = numbers < WHOLE_NUMBERS ? std::max(length, 1) : part(length, pieces(numbers, NUMBERS));
  share(vector_block, &p, divide_up(length, p.part));
}

}  // namespace

extern "C" {

void engine_start(Gemm* sgemm, Gemv* sgemv, Limit* use_threads) {
  gemm = sgemm, gemv = sgemv, use_one_thread = use_threads;
  pthread_atfork(nullptr, nullptr, forget_workers);
}

int engine_threads() { return threads; }

void engine_use_threads(int count) { threads = std::max(1, count); }

bool engine_can_round() { return bfloat16::here(); }

// Whether the operands of large products are rounded to bfloat16 from now on.
void engine_round(bool yes) { rounds = yes && bfloat16::here(); }
bool engine_rounds() { return rounds; }

// In place of cblas_sgemm. OpenBLAS's sgemm packs the whole matrix also for a single row, which
// takes two or three times as long as to read it once: that is sgemv's. A product of one row and
// one column stays with sgemm, whose blocks round less than one long sum.
void engine_sgemm(int order, int ta, int tb, int m, int n, int k, float alpha, const float* a,
                  int lda, const float* b, int ldb, float beta, float* c, int ldc) {
  if (order != ROW_MAJOR) {
    prepare_thread();
    gemm(order, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  } else if (m == 1 && n > 1) {
    bool plain = tb == PLAIN;
    multiply(WithVector{plain ? TRANSPOSED : PLAIN, plain ? k : n, plain ? n : k, alpha, b, ldb, a,
                        ta == PLAIN ? 1 : lda, beta, c, 1, 0});
  } else if (n == 1 && m > 1) {
    bool plain = ta == PLAIN;
    multiply(WithVector{plain ? PLAIN : TRANSPOSED, plain ? m : k, plain ? k : m, alpha, a, lda, b,
                        tb == PLAIN ? ldb : 1, beta, c, ldc, 0});
  } else {
    bool rounded = rounds && 2.0 * m * n * k >= WHOLE_FLOPS;  // else packing costs too much
    Product p{ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc, rounded, 0, 0};
    of_itself(p) ? multiply_by_itself(p) : multiply(p);
  }
}
}
