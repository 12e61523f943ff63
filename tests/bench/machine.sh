# Sourced: machine prints the line that every table of figures opens with: commit, date, cores and kind of CPU.
machine() {
    echo "# $(git -C "$(dirname "${BASH_SOURCE[0]}")" rev-parse --short HEAD 2>/dev/null) $(date -u +%F) $(nproc) cores $(sed -n 's/model name\s*: //p' /proc/cpuinfo | head -1)"
}
