// The kernels for bf16.

#include "formats.h"

namespace ostinato {

OF_FORMAT(, bf16);

}  // namespace ostinato
