# Libraries, all from the distribution, but for libtorch with CUDA. Order matters: FAISS' target
# needs OpenMP's.

# The torch of the Python environment has CUDA, that of the distribution has not.
option(PQCACHE_PYTHON_TORCH "with CUDA, prefer the libtorch of the Python environment" ON)
if(PQCACHE_CUDA AND PQCACHE_PYTHON_TORCH)
  find_package(Python3 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND ${Python3_EXECUTABLE} -c "import torch; print(torch.utils.cmake_prefix_path)"
    OUTPUT_VARIABLE python_torch OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(python_torch)
    set(Torch_DIR ${python_torch}/Torch CACHE PATH "libtorch's package" FORCE)
  endif()
endif()
if(Torch_DIR)
  set(Caffe2_DIR ${Torch_DIR}/../Caffe2)  # not that of another libtorch
endif()

# Torch's package sets flags of its own; only the target is wanted. It goes before RocksDB's, which
# leaves an unusable gflags target behind. Without a list of GPU architectures it looks for a GPU
# with a program that CMake 3.25 cannot make.
set(saved_flags "${CMAKE_CXX_FLAGS}")
set(saved_cuda_flags "${CMAKE_CUDA_FLAGS}")
set(TORCH_CUDA_ARCH_LIST "8.0;9.0")
find_package(Torch REQUIRED)
set(CMAKE_CXX_FLAGS "${saved_flags}")
set(CMAKE_CUDA_FLAGS "${saved_cuda_flags}")
set(PQCACHE_TORCH_CUDA OFF)
if(PQCACHE_CUDA AND TARGET torch_cuda)
  set(PQCACHE_TORCH_CUDA ON)
endif()
if(PQCACHE_CUDA)
  if(PQCACHE_TORCH_CUDA)
    message(STATUS "libtorch has CUDA: models run on a GPU (${Torch_DIR})")
  else()
    message(STATUS "libtorch has no CUDA: kernels are built, models run on the CPU. Install torch "
                   "with CUDA into the Python environment and configure again")
  endif()
endif()

if(PQCACHE_CUDA)
  # Of this project's own kernels; libtorch's package sets the common variable as it likes.
  set(PQCACHE_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "GPU architectures")
  set(CMAKE_CUDA_ARCHITECTURES ${PQCACHE_CUDA_ARCHITECTURES})
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
