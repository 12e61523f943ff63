# Sourced: an environment in which Open MPI runs more ranks than cores, as root, on one machine or on the fake nodes of tests/slurm, without probing networks.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
export OMPI_MCA_mpi_yield_when_idle=1 OMP_WAIT_POLICY=passive # ranks that wait leave the core to those that work
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader,tcp OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_btl_base_warn_component_unused=0
export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers often refuse it
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_leaks=0}" # MPI libraries keep memory to the end
