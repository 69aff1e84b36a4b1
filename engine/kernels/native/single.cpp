// The kernels for float.

#include "formats.h"

namespace ostinato {

OF_FORMAT(, float);

}  // namespace ostinato
