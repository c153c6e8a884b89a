#include "pqcache/base/single_thread.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <thread>

namespace pqcache {
namespace {

TEST(SingleThreadScope, HoldsForItsThreadAndItsLifetime) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(3);
  {
    const SingleThreadScope outer;
    EXPECT_EQ(omp_get_max_threads(), 1);
    {
      const SingleThreadScope inner;
      EXPECT_EQ(omp_get_max_threads(), 1);
    }
    EXPECT_EQ(omp_get_max_threads(), 1);
    std::thread([] {
      omp_set_num_threads(2);
      EXPECT_EQ(omp_get_max_threads(), 2);
    }).join();
    EXPECT_EQ(omp_get_max_threads(), 1);
  }
  EXPECT_EQ(omp_get_max_threads(), 3);
  omp_set_num_threads(before);
}

}  // namespace
}  // namespace pqcache
