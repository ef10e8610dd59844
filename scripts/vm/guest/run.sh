# The second part of the guest's first process: loads drivers, runs the command, reports its exit code, powers off.
home=/run/dmapool-vm
PATH=$home/bin
. $home/settings
$home/busybox --install -s $home/bin
# Busybox's module tools precede the host's in PATH. kmod needs indices (modules.dep.bin) that the guest lacks.
mkdir $home/module-tools
for tool in depmod insmod lsmod modinfo modprobe rmmod; do ln -s $home/busybox $home/module-tools/$tool; done
echo $home/bin/modprobe >/proc/sys/kernel/modprobe

for port in /sys/class/virtio-ports/*; do
  read -r name <"$port/name"
  case $name in
  stdin) in=/dev/${port##*/} ;;
  stdout) out=/dev/${port##*/} ;;
  stderr) err=/dev/${port##*/} ;;
  esac
done

fail() {
  echo "error $*" >&9
  read -r -t 5 _ <&9
  poweroff -f
}

# Load the kernel's drivers for the devices, except for the chipset (slot 1f), as udev would.
aliases=
for device in /sys/bus/pci/devices/0000:00:1[0-9a-e].* /sys/bus/pci/devices/0000:0[1-9]:*; do
  [ -e "$device/modalias" ] || continue
  read -r alias <"$device/modalias"
  aliases="$aliases $alias"
done
[ -z "$aliases" ] || modprobe -a -q -b $aliases

for wanted in $HUGEPAGES; do
  read -r got <"/sys/kernel/mm/hugepages/hugepages-${wanted%=*}/nr_hugepages"
  [ "$got" = "${wanted#*=}" ] || fail "the kernel reserved only $got of ${wanted#*=} hugepages of ${wanted%=*}: the machine needs more memory"
done
hostname dmapool-vm
ip link set lo up
ulimit -n 65536
echo "stage drivers" >&9

if [ -n "$CONSOLE" ]; then
  setsid -c sh $home/command <>/dev/ttyS0 >&0 2>&1 9>&-
  code=$?
else
  # Relay through pipes: a port can be opened only once, but a command may open /dev/stderr again.
  mkfifo $home/in $home/out $home/err
  cat <$home/out >"$out" 9>&- &
  relays=$!
  cat <$home/err >"$err" 9>&- &
  relays="$relays $!"
  if [ -n "$STDIN" ]; then cat <"$in" >$home/in 9>&- & else in=/dev/null; fi
  [ -n "$STDIN" ] && in=$home/in
  sh $home/command <"$in" >$home/out 2>$home/err 9>&- &
  wait $!
  code=$?

  # Processes that outlive the command may hold the pipes open. Send SIGTERM to them, and SIGKILL after half a second.
  # Kernel threads have no /proc/PID/exe.
  signal_left() {
    for process in /proc/[0-9]*; do
      pid=${process#/proc/}
      case " $$ $KERNEL_LOG_PID $relays " in *" $pid "*) continue ;; esac
      [ ! -e "$process/exe" ] || kill "-$1" "$pid" 2>/dev/null
    done
  }
  relaying() {
    for pid in $relays; do [ ! -e "/proc/$pid/exe" ] || return 0; done
    return 1
  }
  signal_left TERM
  tries=0
  while relaying; do
    sleep 0.05
    tries=$((tries + 1))
    [ $tries -lt 10 ] || signal_left KILL
  done
fi

sync
echo "dmapool-vm: the command ended with $code" >/dev/kmsg
echo "exit $code" >&9
# The host replies when it has received this line in the kernel's log.
read -r -t 5 _ <&9
poweroff -f
