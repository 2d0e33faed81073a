// Which thread visits which pairs of blocks, and when. Included after pairwise_tiles.h.

// The rows [j0, j1) of a tile of y, packed, with zeros up to a whole strip.
void pack_tile(const Problem& p, int64_t j0, int64_t j1, float* to) {
  for (int64_t r = 0; r < round_up(j1 - j0, STRIP); ++r, to += PANEL)
    for (int64_t k = 0; k < p.d; k += PANEL) {
      if (j0 + r < j1) {
        copy_slice(p.y + (j0 + r) * p.d, k, p.d, to + k * TILE);
      } else {
        for (int v = 0; v < VECTORS; ++v) store(to + k * TILE + v * LANES, vfloat{});
      }
    }
}

// Tiles of y from [j0, j1) against the rows [i0, i1) of x; on the diagonal, against those from j0 to the tile's end.
void visit_blocks(const Problem& p, Visit visit, int group, int64_t i0, int64_t i1, int64_t j0, int64_t j1,
                  bool diagonal) {
  float* y = p.tiles + omp_get_thread_num() * p.slices * CHUNK;
  for (int64_t j = j0; j < j1; j += TILE) {
    Stripe s = {i0, i1, j, smaller(j + TILE, j1), diagonal, group, y, INT32_MAX, INT32_MIN};
    const int64_t end = diagonal ? i0 + round_up(s.j1 - i0, PANEL) : i1;
    if (i0 >= end) continue;
    pack_tile(p, s.j0, s.j1, y);
    for (int64_t r = j; p.col_ids && r < s.j1; ++r) {
      if (p.col_ids[r] < s.low) s.low = p.col_ids[r];
      if (p.col_ids[r] > s.high) s.high = p.col_ids[r];
    }
    for (int64_t i = i0; i < end; i += SECTION) {
      s.i0 = i, s.i1 = smaller(i + SECTION, end);
      visit(p, s);
    }
  }
}

// Where block b of `blocks` of so many rows starts, in whole units.
FASTSSL_INLINE int64_t start_of(int64_t b, int64_t blocks, int64_t rows, int64_t unit) {
  return smaller(b * ((rows + unit - 1) / unit) / blocks * unit, rows);
}

// x against y: in each round, the row blocks meet each another column block of their group.
void visit_rectangle(const Problem& p, Visit visit) {
  const int64_t blocks = p.row_blocks, all = blocks * p.groups;
  for (int64_t round = 0; round < blocks; ++round) {
#pragma omp for schedule(static)
    for (int64_t k = 0; k < all; ++k) {
      const int64_t group = k / blocks, row = k % blocks, column = group * blocks + (row + round) % blocks;
      visit_blocks(p, visit, (int)group, start_of(row, blocks, p.rows, PANEL), start_of(row + 1, blocks, p.rows, PANEL),
                   start_of(column, all, p.n, STRIP), start_of(column + 1, all, p.n, STRIP), false);
    }
  }
}

// x against itself: an even number of blocks, each with itself and then, in rounds, with every other (the circle
// method of tournaments).
void visit_triangle(const Problem& p, Visit visit) {
  const int64_t panels = p.rows / PANEL;
  const int64_t blocks = 2 * p.threads < panels ? 2 * p.threads : round_up(panels, 2), ring = blocks - 1;
#pragma omp for schedule(static)
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t start = start_of(b, blocks, p.rows, PANEL);
    visit_blocks(p, visit, 0, start, 0, start, smaller(start_of(b + 1, blocks, p.rows, PANEL), p.m), true);
  }
  for (int64_t round = 0; round < ring; ++round) {
#pragma omp for schedule(static)
    for (int64_t k = 0; k < blocks / 2; ++k) {
      const int64_t a = (round + k) % ring, b = k == 0 ? ring : (round + ring - k) % ring;
      const int64_t i = a < b ? a : b, j = a < b ? b : a;
      visit_blocks(p, visit, 0, start_of(i, blocks, p.rows, PANEL), start_of(i + 1, blocks, p.rows, PANEL),
                   start_of(j, blocks, p.rows, PANEL), smaller(start_of(j + 1, blocks, p.rows, PANEL), p.m), false);
    }
  }
}

// What comes before in the parallel region is finished first.
FASTSSL_INLINE void visit_pairs(const Problem& p, Visit visit) {
#pragma omp barrier
  if (p.symmetric) {
    visit_triangle(p, visit);
  } else {
    visit_rectangle(p, visit);
  }
}
