# pqcache_library(name SOURCES... DEPENDS...): a static library with the project's warnings.
# pqcache_test(name SOURCES... DEPENDS... [LABEL slow]): a GoogleTest program, one CTest entry.
# pqcache_fuzzer(name libraries...): a libFuzzer program of name_fuzz.cpp and number_mutator.cpp, built
# by the target `fuzzers`.

add_library(pqcache_options INTERFACE)
target_include_directories(pqcache_options INTERFACE ${PROJECT_SOURCE_DIR})
set(warnings -Wall -Wextra -Wpedantic -Wshadow -Wno-psabi $<$<BOOL:${PQCACHE_WERROR}>:-Werror>)
target_compile_options(pqcache_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${warnings};-ffp-contract=off>"
  # g++ 12 sees overlaps in std::string that are not there (GCC bug 105651).
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-Wno-restrict>)
if(PQCACHE_SANITIZE)
  target_compile_options(pqcache_options INTERFACE -fsanitize=${PQCACHE_SANITIZE}
                         -fno-omit-frame-pointer)
  target_link_options(pqcache_options INTERFACE -fsanitize=${PQCACHE_SANITIZE})
endif()
if(PQCACHE_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "PQCACHE_FUZZ needs clang, which has libFuzzer; the compiler is "
                        "${CMAKE_CXX_COMPILER_ID}. Use: cmake --preset fuzz")
  endif()
  target_compile_options(pqcache_options INTERFACE -fsanitize=fuzzer-no-link
                         -fno-sanitize-recover=all)
  target_compile_definitions(pqcache_options INTERFACE _GLIBCXX_ASSERTIONS)
  add_custom_target(fuzzers)
endif()

function(pqcache_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPENDS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC pqcache_options ${ARG_DEPENDS})
endfunction()

function(pqcache_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SOURCES;DEPENDS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE pqcache_options ${ARG_DEPENDS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE
    PQCACHE_SOURCE_DIR="${PROJECT_SOURCE_DIR}" PQCACHE_BINARY_DIR="${PROJECT_BINARY_DIR}")
  add_test(NAME ${name} COMMAND ${name})
  if(ARG_LABEL)
    set_tests_properties(${name} PROPERTIES LABELS ${ARG_LABEL})
  else()
    set_tests_properties(${name} PROPERTIES LABELS unit)
  endif()
  if(PQCACHE_SANITIZE MATCHES thread)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT
      "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/tsan_suppressions.txt")
  endif()
endfunction()

function(pqcache_fuzzer name)
  add_executable(${name}_fuzz ${name}_fuzz.cpp number_mutator.cpp)
  target_link_libraries(${name}_fuzz PRIVATE pqcache_options ${ARGN})
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name}_fuzz PROPERTIES EXCLUDE_FROM_ALL ON
                        RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/fuzz)
  add_dependencies(fuzzers ${name}_fuzz)
endfunction()
