# 32-bit Arm Linux with glibc 2.28 or newer: Raspberry Pi OS 32-bit.
set(ZIG_TARGET arm-linux-gnueabihf.2.28)
set(CMAKE_SYSTEM_PROCESSOR armv7l)
include(${CMAKE_CURRENT_LIST_DIR}/zig.cmake)
