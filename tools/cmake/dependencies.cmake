# Libraries, all from the distribution. Order matters: FAISS' target needs OpenMP's.
# Torch's package sets CMAKE_CXX_FLAGS of its own; only the target is wanted. It goes before
# RocksDB's, which leaves an unusable gflags target behind.
set(saved_flags "${CMAKE_CXX_FLAGS}")
find_package(Torch REQUIRED)
set(CMAKE_CXX_FLAGS "${saved_flags}")

if(PQCACHE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "GPU architectures")
  enable_language(CUDA)
  find_package(CUDAToolkit 12.4 REQUIRED)
endif()

find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED)
find_package(BLAS REQUIRED)
find_package(LAPACK REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(faiss CONFIG REQUIRED)
find_package(RocksDB CONFIG REQUIRED)
find_path(HIREDIS_INCLUDE hiredis/hiredis.h REQUIRED)
find_library(HIREDIS_LIBRARY hiredis REQUIRED)
find_package(GTest REQUIRED)
find_path(UTF8PROC_INCLUDE utf8proc.h REQUIRED)
find_library(UTF8PROC_LIBRARY utf8proc REQUIRED)
find_library(JEMALLOC_LIBRARY jemalloc REQUIRED)
