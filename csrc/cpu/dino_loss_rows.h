// Cross-entropies between the teachers' and the students' rows of an image, a block of columns at a time in the first
// cache. Included by dino_loss.cpp, once per instruction set.
//
// Each row is read once forward, relative to its running maximum m: Z = sum_k e^((x - m)/tau), and of each pair the dot
// D = sum_k e_tk (s_vk - m_v). Being relative to m_v it stays as small as the loss is: the cross-entropy of a pair is
// log Z_v - D/Z_t/tau.
// clang-format off
#include "elements.h"
#include "streams.h"
// clang-format on

constexpr int64_t BLOCK = 1024;  // columns at a time
constexpr int PAIR = 2;          // teachers that a sweep takes along

// The first `count` lanes, and zeros.
FASTSSL_INLINE vfloat first_lanes(vfloat x, int64_t count) {
  for (int64_t lane = count; lane < LANES; ++lane) x[lane] = 0;
  return x;
}

FASTSSL_INLINE const char* row_at(const ViewRows& view, ElementType type, int64_t b) {
  return element(type, view.data, b * view.row);
}

FASTSSL_INLINE int64_t pairs_of(const DinoViews& d) {
  return d.student_count * d.teacher_count - (d.skip_same_view ? smaller(d.student_count, d.teacher_count) : 0);
}

// What image b counts in the pair (t, v).
double weight_of(const DinoViews& d, int64_t t, int64_t v, int64_t b) {
  const int64_t rows = smaller(d.teachers[t].batch, d.students[v].batch);
  if ((d.skip_same_view && t == v) || b >= rows) return 0;
  return (d.row_weights ? (double)d.row_weights[b] : 1 / (double)rows) / (double)pairs_of(d);
}

// Where the block begins that is read after that of teacher t, or of student v: only to be fetched, as it may not
// exist.
FASTSSL_INLINE const char* after_teacher(const DinoViews& d, int64_t t, int64_t b, int64_t k) {
  if (t + 1 < d.teacher_count) return element(d.teacher_type, row_at(d.teachers[t + 1], d.teacher_type, b), k);
  return element(d.student_type, row_at(d.students[0], d.student_type, b), k);
}

FASTSSL_INLINE const char* after_student(const DinoViews& d, int64_t v, int64_t b, int64_t k) {
  if (v + 1 < d.student_count) return element(d.student_type, row_at(d.students[v + 1], d.student_type, b), k);
  return element(d.teacher_type, row_at(d.teachers[0], d.teacher_type, b), k + BLOCK);
}

// Sums over a student's row: how often its maximum m comes, and e^((s - m)/tau) of the others. Apart, as the loss of a
// student who is sure would drown in a sum with 1.
struct Sums {
  double maxima, others;
};

// What one thread needs.
struct Scratch {
  float *teachers, *student;         // blocks: [teacher_count, BLOCK], [BLOCK]
  float *teacher_max, *student_max;  // backward: levels
  Sums* sums;                        // of each student
  double* teacher_sum;               // Z
  double* before;                    // Z without the block at hand
  double* dots;                      // D, [student_count, teacher_count]
  float *own, *pulls;  // backward: what each student's row, and each teacher's row at it, is multiplied by
};

Scratch scratch_of(const DinoViews& d, void* memory) {
  const int64_t s = d.student_count, t = d.teacher_count;
  Scratch a;
  a.sums = (Sums*)memory;
  a.teacher_sum = (double*)(a.sums + s), a.before = a.teacher_sum + t, a.dots = a.before + t;
  a.teacher_max = (float*)(a.dots + s * t), a.student_max = a.teacher_max + t;
  a.own = a.student_max + s, a.pulls = a.own + s;
  a.teachers = a.pulls + s * t, a.student = a.teachers + t * BLOCK;
  return a;
}

void* new_scratch(const DinoViews& d) {
  const int64_t s = d.student_count, t = d.teacher_count;
  const int64_t doubles = 2 * s + 2 * t + s * t, floats = t + 2 * s + s * t + (t + 1) * BLOCK;
  return malloc((size_t)doubles * sizeof(double) + (size_t)floats * sizeof(float));
}

// The floats of a row's block, where they are or converted, filled up to whole vectors with NOTHING.
FASTSSL_INLINE const float* fetch_as(ElementType type, const char* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += LANES) {
    vfloat x = load_some(type, element(type, from, i), count - i);
    for (int64_t lane = count - i; lane < LANES; ++lane) x[lane] = NOTHING;
    store(to + i, x);
  }
  return to;
}

FASTSSL_INLINE const float* fetch(ElementType type, const char* from, int64_t count, float* to) {
  if (type == TYPE_FLOAT32 && count == BLOCK) return (const float*)from;
  if (type == TYPE_FLOAT32) return fetch_as(TYPE_FLOAT32, from, count, to);
  if (type == TYPE_BFLOAT16 && count == BLOCK) return fetch_as(TYPE_BFLOAT16, from, BLOCK, to);
  return fetch_as(type, from, count, to);
}

FASTSSL_INLINE float peak(const float* x, int64_t count) {
  vfloat max = splat(NOTHING);
  for (int64_t i = 0; i < count; i += LANES) max = maximum(max, load(x + i));
  return max_lanes(max);
}

// A teacher's block less its centre as e^((x - level)/tau), c = log2(e)/tau, or as given; nothing where it ends. The
// sum, and the largest exponent, which may turn out to be above the level. `next` is fetched on the way into the second
// cache: there are not enough places for the first one to wait for so much.
FASTSSL_INLINE float targets_as(ElementType type, bool given, const char* from, const char* next, const float* center,
                                int64_t count, float level, float c, float* to, float* max) {
  vfloat total{}, most = splat(NOTHING);
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t left = count - i;
    vfloat x = load_some(type, element(type, from, i), left);
    __builtin_prefetch(element(type, next, i), 0, 2);
    if (!given) {
      if (center) x -= load_some(TYPE_FLOAT32, center + i, left);
      for (int64_t lane = left; lane < LANES; ++lane) x[lane] = -__builtin_inff();
      most = maximum(most, x);
      x = exp2_nonpositive((x - level) * c);
    }
    store(to + i, x);
    total += x;
  }
  *max = max_lanes(most);
  return sum_lanes(total);
}

FASTSSL_INLINE float targets(const DinoViews& d, int64_t t, int64_t b, int64_t k, int64_t count, float level, float c,
                             float* to, float* max) {
  const ElementType type = d.teacher_type;
  const char *from = element(type, row_at(d.teachers[t], type, b), k), *next = after_teacher(d, t, b, k);
  const float* center = d.center ? d.center + (d.shared_center ? 0 : t * d.width) + k : 0;
  if (d.soft_targets) return targets_as(type, true, from, next, 0, count, level, c, to, max);
  if (type == TYPE_FLOAT32 && count == BLOCK && center)
    return targets_as(TYPE_FLOAT32, false, from, next, center, BLOCK, level, c, to, max);
  if (type == TYPE_BFLOAT16 && count == BLOCK && center)
    return targets_as(TYPE_BFLOAT16, false, from, next, center, BLOCK, level, c, to, max);
  return targets_as(type, false, from, next, center, count, level, c, to, max);
}

// The block of each teacher of image b as exponentials, or as given; its sums. What is above the maximum of the blocks
// before is met on the way, and the block taken again.
void sum_teachers(const DinoViews& d, const Scratch& a, int64_t b, int64_t k, int64_t count, float c) {
  for (int64_t t = 0; t < d.teacher_count; ++t) {
    if (b >= d.teachers[t].batch) continue;
    float *e = a.teachers + t * BLOCK, max;
    float sum = targets(d, t, b, k, count, a.teacher_max[t], c, e, &max);
    if (!d.soft_targets && max > a.teacher_max[t]) {
      const double shrink = exp(((double)a.teacher_max[t] - max) / d.teacher_temp);
      a.teacher_max[t] = max;
      a.teacher_sum[t] *= shrink;
      for (int64_t v = 0; v < d.student_count; ++v) a.dots[v * d.teacher_count + t] *= shrink;
      sum = targets(d, t, b, k, count, max, c, e, &max);
    }
    a.before[t] = a.teacher_sum[t];
    a.teacher_sum[t] += sum;
  }
}

// What a block adds to the sums, if asked, and to the dots of s - m with up to PAIR teachers.
struct Part {
  Sums sums;
  double dots[PAIR];
};

// The part of a block, whose largest element `max` may turn out to be above m.
FASTSSL_INLINE Part part_of(const float* s, const char* next, const float* e, int teachers, bool exponential,
                            int64_t count, float m, float c, float* max) {
  const vfloat zero{}, one = zero + 1.f;
  vfloat most = splat(NOTHING), maxima{}, others{}, first{}, second{};
  for (int64_t i = 0; i < count; i += LANES) {
    const vfloat score = load(s + i), x = score - m;
    if (exponential) {
      __builtin_prefetch(next + i * 4, 0, 2);
      most = maximum(most, score);
      const vmask highest = x == zero;
      maxima += select(highest, one, zero);
      others += select(highest, zero, exp2_nonpositive(x * c));
    }
    first += load(e + i) * x;
    if (teachers > 1) second += load(e + BLOCK + i) * x;
  }
  if (exponential) *max = max_lanes(most);
  return {{sum_lanes(maxima), sum_lanes(others)}, {sum_lanes(first), sum_lanes(second)}};
}

FASTSSL_INLINE Part first_part(const float* s, const char* next, const float* e, int64_t teachers, int64_t count,
                               float m, float c, float* max) {
  if (teachers == 1) return part_of(s, next, e, 1, true, count, m, c, max);
  if (count == BLOCK) return part_of(s, next, e, 2, true, BLOCK, m, c, max);
  return part_of(s, next, e, 2, true, count, m, c, max);
}

// Adds a block of student v. What is above the maximum of the blocks before is met on the way, and the block taken
// again.
void add_student(const DinoViews& d, const Scratch& a, int64_t b, int64_t v, int64_t k, int64_t count, float c) {
  const int64_t teachers = d.teacher_count;
  const char* from = element(d.student_type, row_at(d.students[v], d.student_type, b), k);
  const char* next = after_student(d, v, b, k);
  const float* s = fetch(d.student_type, from, count, a.student);
  Sums* sums = a.sums + v;
  double* dots = a.dots + v * teachers;
  float m = k == 0 ? peak(s, count) : a.student_max[v], max;
  Part part = first_part(s, next, a.teachers, teachers, count, m, c, &max);
  if (k == 0) a.student_max[v] = m;
  if (max > m) {
    const double rise = (double)max - m;
    *sums = {0, (sums->maxima + sums->others) * exp(-rise / d.student_temp)};
    for (int64_t t = 0; t < teachers; ++t)
      if (b < d.teachers[t].batch) dots[t] -= rise * a.before[t];
    a.student_max[v] = m = max;
    part = first_part(s, next, a.teachers, teachers, count, m, c, &max);
  }
  sums->maxima += part.sums.maxima, sums->others += part.sums.others;
  for (int64_t t = 0;;) {
    dots[t] += part.dots[0];
    if (t + 1 < teachers) dots[t + 1] += part.dots[1];
    t += PAIR;
    if (t >= teachers) return;
    const float* e = a.teachers + t * BLOCK;
    part = t + 1 < teachers ? part_of(s, next, e, 2, false, count, m, c, &max)
                            : part_of(s, next, e, 1, false, count, m, c, &max);
  }
}

void forward_image(const DinoViews& d, const Scratch& a, int64_t b) {
  const int64_t teachers = d.teacher_count;
  const float c = (float)(LOG2_E / d.student_temp), teacher_c = (float)(LOG2_E / d.teacher_temp);
  for (int64_t t = 0; t < teachers; ++t) a.teacher_max[t] = NOTHING, a.teacher_sum[t] = 0;
  for (int64_t v = 0; v < d.student_count; ++v) a.student_max[v] = NOTHING, a.sums[v] = {0, 0};
  for (int64_t i = 0; i < d.student_count * teachers; ++i) a.dots[i] = 0;
  for (int64_t t = 0; t < teachers; ++t)  // of teachers that lack this image
    for (int64_t i = 0; b >= d.teachers[t].batch && i < BLOCK; ++i) a.teachers[t * BLOCK + i] = 0;
  for (int64_t k = 0; k < d.width; k += BLOCK) {
    const int64_t count = smaller(BLOCK, d.width - k);
    sum_teachers(d, a, b, k, count, teacher_c);
    for (int64_t v = 0; v < d.student_count; ++v)
      if (b < d.students[v].batch) add_student(d, a, b, v, k, count, c);
  }
  for (int64_t t = 0; t < teachers; ++t)
    if (b < d.teacher_rows)
      d.teacher_norm[t * d.teacher_rows + b] =
          b >= d.teachers[t].batch ? 0
          : d.soft_targets         ? a.teacher_sum[t]
                                   : a.teacher_max[t] / d.teacher_temp + log(a.teacher_sum[t] / EXP2_OF_0);
  double loss = 0;
  for (int64_t v = 0; v < d.student_count; ++v) {
    const bool there = b < d.students[v].batch;
    const Sums& sums = a.sums[v];
    const double rest = log(sums.maxima) + log1p(sums.others / sums.maxima);
    if (b < d.student_rows)
      d.student_lse[v * d.student_rows + b] = there ? a.student_max[v] / d.student_temp + rest : 0;
    for (int64_t t = 0; there && t < teachers; ++t) {
      const double weight = weight_of(d, t, v, b);
      if (weight == 0) continue;
      const double mass = d.soft_targets ? a.teacher_sum[t] : 1, unit = d.soft_targets ? 1 : a.teacher_sum[t];
      loss += weight * (mass * rest - a.dots[v * teachers + t] / unit / d.student_temp);
    }
  }
  d.partial[b] = loss;
}

double total_of(const DinoViews& d) {
  double total = 0;
  for (int64_t b = 0; b < d.batch; ++b) total += d.partial[b];
  return total;
}

void forward(const DinoForward& f) {
  const DinoViews& d = f.views;
#pragma omp parallel num_threads(d.threads) if (d.threads > 1)
  {
    void* memory = new_scratch(d);
    const Scratch a = scratch_of(d, memory);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < d.batch; ++b) forward_image(d, a, b);
    free(memory);
  }
  *f.loss = total_of(d);
}

// own 2^(c (s - level)) + sum_t pulls_t e_t, the gradient of a block; its product with s - level,
// which is that with s, as the gradients of a row add up to 0.
FASTSSL_INLINE float pull_as(ElementType type, const char* from, const char* next, const float* e, const float* pulls,
                             int64_t teachers, int64_t count, float level, float own, float c, char* grad,
                             bool stream) {
  vfloat product{};
  const float first = pulls[0], second = teachers > 1 ? pulls[1] : 0.f;
  for (int64_t i = 0; i < count; i += LANES) {
    const int64_t left = count - i;
    const vfloat above = load_some(type, element(type, from, i), left) - level;
    __builtin_prefetch(element(type, next, i), 0, 2);
    vfloat g = exp2_nonpositive(above * c) * own + load(e + i) * first;
    if (teachers > 1) g += load(e + BLOCK + i) * second;
    for (int64_t t = PAIR; t < teachers; ++t) g += load(e + t * BLOCK + i) * pulls[t];
    product += left < LANES ? first_lanes(g * above, left) : g * above;
    if (stream && type == TYPE_FLOAT32 && left >= LANES) {
      store_past((float*)grad + i, g);
    } else {
      store_some(type, element(type, grad, i), g, left);
    }
  }
  return sum_lanes(product);
}

FASTSSL_INLINE float pull(ElementType type, const char* from, const char* next, const float* e, const float* pulls,
                          int64_t teachers, int64_t count, float level, float own, float c, char* grad, bool stream) {
  if (type == TYPE_FLOAT32 && count == BLOCK && teachers == 1)
    return pull_as(TYPE_FLOAT32, from, next, e, pulls, 1, BLOCK, level, own, c, grad, stream);
  if (type == TYPE_FLOAT32 && count == BLOCK && teachers == 2)
    return pull_as(TYPE_FLOAT32, from, next, e, pulls, 2, BLOCK, level, own, c, grad, stream);
  if (type == TYPE_BFLOAT16 && count == BLOCK && teachers == 2)
    return pull_as(TYPE_BFLOAT16, from, next, e, pulls, 2, BLOCK, level, own, c, grad, stream);
  return pull_as(type, from, next, e, pulls, teachers, count, level, own, c, grad, stream);
}

// e^(x/tau - lse) = 2^(c (x - level)) rest, where x - level is exact where it matters.
FASTSSL_INLINE double split(double lse, double tau, float* level) {
  *level = (float)(lse * tau);
  return exp(*level / tau - lse) / EXP2_OF_0;
}

void backward_image(const DinoBackward& f, const Scratch& a, int64_t b, bool stream) {
  const DinoViews& d = f.views;
  const int64_t teachers = d.teacher_count;
  const double unit = f.grad / d.student_temp;
  const float c = (float)(LOG2_E / d.student_temp), teacher_c = (float)(LOG2_E / d.teacher_temp);
  for (int64_t t = 0; t < teachers; ++t) {
    const double norm = b < d.teacher_rows ? d.teacher_norm[t * d.teacher_rows + b] : 0;
    const double rest = d.soft_targets ? 1 : split(norm, d.teacher_temp, a.teacher_max + t);
    for (int64_t v = 0; v < d.student_count; ++v)
      a.pulls[v * teachers + t] = (float)(-unit * weight_of(d, t, v, b) * rest);
    for (int64_t i = 0; b >= d.teachers[t].batch && i < BLOCK; ++i) a.teachers[t * BLOCK + i] = 0;
  }
  for (int64_t v = 0; v < d.student_count; ++v) {
    double mass = 0;
    for (int64_t t = 0; t < teachers; ++t) {
      const double weight = weight_of(d, t, v, b);
      if (weight != 0) mass += weight * (d.soft_targets ? d.teacher_norm[t * d.teacher_rows + b] : 1);
    }
    const double lse = b < d.student_rows ? d.student_lse[v * d.student_rows + b] : 0;
    a.own[v] = (float)(unit * mass * split(lse, d.student_temp, a.student_max + v));
  }
  double product = 0;
  const int64_t bytes = bytes_of(d.student_type);
  for (int64_t k = 0; k < d.width; k += BLOCK) {
    const int64_t count = smaller(BLOCK, d.width - k);
    for (int64_t t = 0; t < teachers; ++t) {
      if (b >= d.teachers[t].batch) continue;
      float max;
      targets(d, t, b, k, count, a.teacher_max[t], teacher_c, a.teachers + t * BLOCK, &max);
    }
    for (int64_t v = 0; v < d.student_count; ++v) {
      if (b >= d.students[v].batch) continue;
      const char* from = element(d.student_type, row_at(d.students[v], d.student_type, b), k);
      char* grad = (char*)f.grads[v] + (b * d.width + k) * bytes;
      product += pull(d.student_type, from, after_student(d, v, b, k), a.teachers, a.pulls + v * teachers, teachers,
                      count, a.student_max[v], a.own[v], c, grad, stream);
    }
  }
  d.partial[b] = product;
}

void backward(const DinoBackward& f) {
  const DinoViews& d = f.views;
  const bool stream = d.student_count * d.batch * d.width * bytes_of(d.student_type) >= STREAM_BYTES;
#pragma omp parallel num_threads(d.threads) if (d.threads > 1)
  {
    void* memory = new_scratch(d);
    const Scratch a = scratch_of(d, memory);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < d.batch; ++b) backward_image(f, a, b, stream);
    free(memory);
    finish_streams();
  }
  *f.grad_temp = -total_of(d) / d.student_temp;
}

constexpr DinoKernels kernels = {forward, backward};
