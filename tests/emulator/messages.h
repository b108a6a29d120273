// Texts from which the emulator composes its error messages.
#pragma once

#include <cstdio>
#include <string>

#include "runtime.h"

namespace mige::emulator {

// The primitive and its place in the source: "primitive (file:line)".
inline std::string text(const char* primitive, Site site) {
  const std::string path = site.file;
  return std::string(primitive) + " (" + path.substr(path.rfind('/') + 1) + ":" +
         std::to_string(site.line) + ")";
}

// The index of a thread or of a block: "(x, y, z)".
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
