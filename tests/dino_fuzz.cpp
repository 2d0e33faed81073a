// Random views, temperatures and centres through the cross-entropies of teachers and students, in memory of exactly the
// right size, for the sanitizers to watch.
#include <math.h>

#include "../csrc/cpu/dino_loss.h"
#include "fuzz.h"

using namespace fastssl;

static int64_t bytes_of(ElementType type) { return type == TYPE_FLOAT32 ? 4 : 2; }

// Views of any type, any number of images and any distance of their rows; their bits are any, or small numbers.
struct Side {
  Side(int64_t count, int64_t width) : type(one_of<ElementType>({TYPE_FLOAT32, TYPE_FLOAT16, TYPE_BFLOAT16})) {
    const bool wild = one_in(3);
    for (int64_t v = 0; v < count; ++v) {
      const int64_t batch = 1 + below(5), row = one_in(3) ? width + below(5) : width;
      const int64_t size = ((batch - 1) * row + width) * bytes_of(type);
      Memory<char>& rows = memory.emplace_back(size, (int)bytes_of(type) * below(3));
      rows.randomize();
      for (int64_t i = 0; !wild && i < size; i += bytes_of(type)) rows.data[i + bytes_of(type) - 1] &= 0xbf;
      views.push_back({rows.data, row, batch});
      most = batch > most ? batch : most;
    }
  }
  const ElementType type;
  int64_t most = 0;
  std::deque<Memory<char>> memory;
  std::vector<ViewRows> views;
};

static void dino(const char* set) {
  const int64_t width = one_in(3) ? 1 + below(3000) : 1 + below(100), s = 1 + below(5), t = 1 + below(4);
  Side students(s, width), teachers(t, width);
  const int64_t batch = students.most > teachers.most ? students.most : teachers.most;
  const bool shared = one_in(2), soft = one_in(3);
  Memory<float> center(soft || one_in(3) ? 0 : (shared ? 1 : t) * width, below(3)), weights(one_in(3) ? batch : 0);
  for (Memory<float>* m : {&center, &weights})
    for (int64_t i = 0; i < m->count; ++i) m->data[i] = (float)below(100) / 50;
  DinoViews d{};
  d.students = students.views.data(), d.teachers = teachers.views.data(), d.student_count = s, d.teacher_count = t;
  d.student_type = students.type, d.teacher_type = teachers.type, d.batch = batch, d.width = width;
  d.center = center.data, d.shared_center = shared, d.row_weights = weights.data;
  d.student_temp = one_of<double>({0.1, 1, 1e-30, 1e30}), d.teacher_temp = one_of<double>({0.04, 1, 1e-30, 1e30});
  d.skip_same_view = one_in(2) && s + t > 2, d.soft_targets = soft;
  d.student_rows = students.most, d.teacher_rows = teachers.most;
  std::vector<int64_t> bytes = {s * d.student_rows * 8, t * d.teacher_rows * 8, 8, 8};
  for (const ViewRows& view : students.views) bytes.push_back(view.batch * width * bytes_of(students.type));
  twice("dino", bytes, [&](void* const* out, int threads) {
    Memory<double> partial(batch);
    partial.randomize();
    DinoViews call = d;
    call.student_lse = (double*)out[0], call.teacher_norm = (double*)out[1];
    call.partial = partial.data, call.threads = threads;
    dino_kernels(set).forward({call, (double*)out[2]});
    dino_kernels(set).backward({call, 1.7, out + 4, (double*)out[3]});
  });
}

int main(int, char** arguments) { run_rounds_per_set(arguments, dino); }
