// Rows into columns, in registers: how weights get from PyTorch's layout into panels, and images from planes
// into pixels.
#pragma once

#include <cstdint>
#include <cstring>

namespace ninefold {

// Three rows, the planes of an image in colour. Four columns at a time in registers was no faster: memory is
// what it waits for.
inline void transpose_three(const float* from, int64_t columns, int64_t from_stride, float* to) {
    const float *x = from, *y = from + from_stride, *z = y + from_stride;
    for (int64_t j = 0; j < columns; j++) {
        to[3 * j] = x[j];
        to[3 * j + 1] = y[j];
        to[3 * j + 2] = z[j];
    }
}

// Four rows of four columns: to[j][i] = from[i][j].
[[gnu::always_inline]] inline void transpose_four(const float* const from[4], float* const to[4]) {
    typedef float Four __attribute__((vector_size(16)));
    typedef int32_t Order __attribute__((vector_size(16)));
    Four r[4];
    for (int k = 0; k < 4; k++)
        std::memcpy(&r[k], from[k], sizeof(Four));
    const Four a = __builtin_shuffle(r[0], r[1], Order{0, 4, 1, 5}),
               b = __builtin_shuffle(r[2], r[3], Order{0, 4, 1, 5});
    const Four c = __builtin_shuffle(r[0], r[1], Order{2, 6, 3, 7}),
               d = __builtin_shuffle(r[2], r[3], Order{2, 6, 3, 7});
    const Four columns[4] = {
        __builtin_shuffle(a, b, Order{0, 1, 4, 5}), __builtin_shuffle(a, b, Order{2, 3, 6, 7}),
        __builtin_shuffle(c, d, Order{0, 1, 4, 5}), __builtin_shuffle(c, d, Order{2, 3, 6, 7})};
    for (int k = 0; k < 4; k++)
        std::memcpy(to[k], &columns[k], sizeof(Four));
}

// The same of rows that lie from_stride apart.
[[gnu::always_inline]] inline void transpose_four(const float* from, int64_t from_stride,
                                                  float* const to[4]) {
    const float* const rows[4] = {from, from + from_stride, from + 2 * from_stride, from + 3 * from_stride};
    transpose_four(rows, to);
}

// to[j · to_stride + i] = from[i · from_stride + j] for i < rows, j < columns. 5 G elements a second against
// 1.5 for the plain loops, on one Zen 4 core: a 1024×1024 layer is packed in a fifth of the time it takes to
// run at 7×7.
inline void transpose(const float* from, int64_t rows, int64_t columns, int64_t from_stride, float* to,
                      int64_t to_stride) {
    if (rows == 3 && to_stride == 3) return transpose_three(from, columns, from_stride, to);
    // Sixteen columns at a time down all rows: the lines read and the lines written stay in the first cache.
    for (int64_t j0 = 0; j0 < columns; j0 += 16) {
        const int64_t j1 = j0 + 16 < columns ? j0 + 16 : columns;
        int64_t i = 0;
        for (; i + 4 <= rows; i += 4) {
            int64_t j = j0;
            for (; j + 4 <= j1; j += 4) {
                float* const at = to + j * to_stride + i;
                float* const four[4] = {at, at + to_stride, at + 2 * to_stride, at + 3 * to_stride};
                transpose_four(from + i * from_stride + j, from_stride, four);
            }
            for (; j < j1; j++)
                for (int k = 0; k < 4; k++)
                    to[j * to_stride + i + k] = from[(i + k) * from_stride + j];
        }
        for (; i < rows; i++)
            for (int64_t j = j0; j < j1; j++)
                to[j * to_stride + i] = from[i * from_stride + j];
    }
}

// The same into rows wherever next() says that they are, called once for each, in their order. Where rows
// written one after the other lie far apart they may fall on the same cache sets, so here a line of them,
// sixteen numbers, is written at once: 320×320 of 3×3 at 3.6 G elements a second against 2.2 by way of a
// copy, of 5×5 at 1.0 against 0.5. Rows come from memory, two lines of each at a time, which no processor
// foresees: asked for, 144→144 of 7×7 at 7×7 took 0.90 of its time, packed and multiplied, of 5×5 0.96.
template <class Next>
void transpose_to(Next next, const float* from, int64_t rows, int64_t columns, int64_t from_stride) {
    constexpr int64_t most = 32, line = 16;
    for (int64_t j0 = 0; j0 < columns; j0 += most) {
        const int64_t count = columns - j0 < most ? columns - j0 : most, fours = count / 4 * 4;
        float* to[most];
        for (int64_t j = 0; j < count; j++)
            to[j] = next();
        for (int64_t i0 = 0; i0 < rows; i0 += line) {
            const int64_t i1 = i0 + line < rows ? i0 + line : rows, whole = i0 + (i1 - i0) / 4 * 4;
            for (int64_t i = i0; i < i1; i++) {
                __builtin_prefetch(from + i * from_stride + j0 + 2 * most);
                __builtin_prefetch(from + i * from_stride + j0 + 2 * most + line);
            }
            for (int64_t j = 0; j < fours; j += 4)
                for (int64_t i = i0; i < whole; i += 4) {
                    float* const four[4] = {to[j] + i, to[j + 1] + i, to[j + 2] + i, to[j + 3] + i};
                    transpose_four(from + i * from_stride + j0 + j, from_stride, four);
                }
            for (int64_t i = i0; i < i1; i++)
                for (int64_t j = i < whole ? fours : 0; j < count; j++)
                    to[j][i] = from[i * from_stride + j0 + j];
        }
    }
}

} // namespace ninefold
