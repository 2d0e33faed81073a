// Cross-entropies between rows of teachers and of students on the CPU.
#pragma once

#include <stdint.h>

#include "../common/portable.h"

namespace fastssl {

// One view of some images: [batch, width], the elements of a row side by side.
struct ViewRows {
  const void* data;
  int64_t row;  // stride, in elements
  int64_t batch;
};

// The teachers' and students' views of `batch` images, of which a view may have only the first ones.
struct DinoViews {
  const ViewRows *students, *teachers;
  int64_t student_count, teacher_count;
  ElementType student_type, teacher_type;
  int64_t batch, width;
  const float* center;       // [teacher_count or 1, width], or null
  bool shared_center;        // one for all teachers
  const float* row_weights;  // [batch], or null for the mean
  double student_temp, teacher_temp;
  bool skip_same_view;
  bool soft_targets;                   // the teachers' rows are the probabilities themselves
  double *student_lse, *teacher_norm;  // [student_count, student_rows], [teacher_count, teacher_rows]
  int64_t student_rows, teacher_rows;
  double* partial;  // workspace [batch]
  int threads;
};

struct DinoForward {
  DinoViews views;  // their norms are written
  double* loss;     // [1]
};

struct DinoBackward {
  DinoViews views;     // their norms are read
  double grad;         // of the loss
  void* const* grads;  // of each student, [batch, width] without gaps, in the students' type
  double* grad_temp;   // [1], of the students' temperature
};

// The kernels of one instruction set.
struct DinoKernels {
  void (*forward)(const DinoForward&);
  void (*backward)(const DinoBackward&);
};

// `capability` is what at::get_cpu_capability() says: "AVX512", "AVX2" or anything else for the baseline.
const DinoKernels& dino_kernels(const char* capability);

}  // namespace fastssl
