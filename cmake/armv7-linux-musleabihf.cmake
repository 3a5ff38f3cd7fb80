# 32-bit Arm Linux, for programs linked statically.
set(ZIG_TARGET arm-linux-musleabihf)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
