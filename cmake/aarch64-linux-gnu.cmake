# 64-bit Arm Linux with glibc 2.28 or newer: Raspberry Pi OS 64-bit, Jetson.
set(ZIG_TARGET aarch64-linux-gnu.2.28)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
