// The parts of the messages that name a fault.
#pragma once

#include <cstdio>
#include <string>

#include "runtime.h"

namespace mige::emulator {

inline std::string text(const char* primitive, Site site) {
  const std::string path = site.file;
  return std::string(primitive) + " (" + path.substr(path.rfind('/') + 1) + ":" +
         std::to_string(site.line) + ")";
}

template <typename Index>
std::string text(const Index& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

inline std::string hexadecimal(unsigned mask) {
  char buffer[16];
  std::snprintf(buffer, sizeof(buffer), "0x%08x", mask);
  return buffer;
}

}  // namespace mige::emulator
