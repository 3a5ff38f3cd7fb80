# Cross-compile with the C compiler inside the PyPI package ziglang. Included by the toolchain files
# beside this one, which set ZIG_TARGET and CMAKE_SYSTEM_PROCESSOR.
#
# The zig program is $ZIG, or that of the ziglang package which `python3` (or $PYTHON) can import. It is
# called by its path: inside pip's build isolation `python3 -m ziglang` would not be found.
set(CMAKE_SYSTEM_NAME Linux)

if(NOT DEFINED ENV{ZIG})
  if(DEFINED ENV{PYTHON})
    set(zig_python "$ENV{PYTHON}")
  else()
    set(zig_python python3)
  endif()
  execute_process(
    COMMAND "${zig_python}" -c
            "import importlib.util as u; print(*u.find_spec('ziglang').submodule_search_locations)"
    OUTPUT_VARIABLE zig_folder
    OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  if(NOT EXISTS "${zig_folder}/zig")
    message(FATAL_ERROR "zig was not found. Install it with: pip install ziglang, "
                        "or set ZIG to the zig program.")
  endif()
  # CMake reads this file again for each of its own trial builds; those see the environment only.
  set(ENV{ZIG} "${zig_folder}/zig")
endif()

set(CMAKE_C_COMPILER "$ENV{ZIG}" cc -target ${ZIG_TARGET})
set(CMAKE_C_COMPILER_TARGET "")
set(CMAKE_AR "$ENV{ZIG}" CACHE FILEPATH "zig as archiver")
set(CMAKE_RANLIB "$ENV{ZIG}" CACHE FILEPATH "zig as archiver")
set(CMAKE_C_ARCHIVE_CREATE "<CMAKE_AR> ar qc <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_APPEND "<CMAKE_AR> ar q <TARGET> <OBJECTS>")
set(CMAKE_C_ARCHIVE_FINISH "<CMAKE_RANLIB> ranlib <TARGET>")

set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
